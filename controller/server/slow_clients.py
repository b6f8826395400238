"""How long a client may take, and how many threads wait for slow ones: all limits in one place."""

from __future__ import annotations

# Receiving a request. For the whole head, in however many pieces it arrives.
HEAD_S = 10.0
# For a body: the longest silence, and the time for all of it, to which what has arrived adds time at this rate.
SILENCE_S = 10.0
BODY_S = 30.0
SLOWEST_BYTES_PER_S = 32 * 1024
MOST_READERS = 32

# Sending an answer. A client that takes nothing for this long is dropped; a slow one is not.
WRITE_STALL_S = 30.0
# The same while as many threads wait for slow clients as may.
CROWDED_STALL_S = 0.05
MOST_WRITERS = 32

# How long an ended connection waits for its client to close it as well.
LINGER_S = 2.0
