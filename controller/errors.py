"""All errors of Orchestrar.

OrchestrarError
├── ConfigInvalid              400 config_invalid    models.yaml or a setting is invalid; at startup exit code 2
├── InstanceRuns               another controller manages this project; exit code 1, never an HTTP answer
├── RequestError               caused by the client
│   ├── BodyInvalid            400 invalid_body
│   ├── TaskUnsupported        400 task_unsupported
│   ├── HostForbidden          403 host_forbidden
│   ├── OriginForbidden        403 origin_forbidden
│   ├── ModelNotFound          404 model_not_found
│   ├── RouteNotFound          404 route_not_found
│   ├── MethodNotAllowed       405 method_not_allowed
│   ├── RequestTimeout         408 request_timeout
│   ├── ModelBusy              409 model_busy
│   ├── BodyTooLarge           413 body_too_large
│   └── ContentTypeForbidden   415 content_type_forbidden
├── Unavailable                503, a later retry may succeed
│   ├── ModelPreparing         503 model_preparing
│   ├── ModelStopping          503 model_stopping
│   ├── ModelPaused            503 model_paused      by a user, who must unpause it
│   ├── Overloaded             503 overloaded
│   ├── BackingOff             503 backing_off       `details`: the last failure card
│   ├── NoRoom                 503 insufficient_memory   `details`: what holds the memory
│   ├── StartFailed            503 start_failed      `details`: the failure card
│   │   └── StartInterrupted   503 start_failed      caused from outside, not by the model
│   ├── ImageMissing           503 image_missing     `details`: the commands that fetch it
│   ├── PreparationFailed      503 preparation_failed
│   │   └── ModelUnfit         503 preparation_failed   this engine cannot serve the model exactly; another may
│   ├── PortTaken              503 port_taken
│   ├── FilesUnwritable        503 files_unwritable
│   ├── DockerUnavailable      503 docker_unavailable
│   └── SourceError            503 source_failed     a model's files or image cannot be fetched or read
│       ├── ChecksumMismatch   503 checksum_mismatch
│       ├── AccessDenied       503 source_access_denied
│       └── Cancelled          503 cancelled
├── DeadlineExceeded           504 deadline_exceeded
├── UpstreamError              caused by the model
│   ├── ModelDied              502 model_died
│   ├── UpstreamInvalid        502 upstream_invalid
│   ├── UpstreamTimeout        504 upstream_timeout
│   ├── ShutDown               503 shutting_down     the controller ended in the middle of a model's answer
│   └── UpstreamAnswered       the model's own status and error body, unchanged
└── DockerError                a Docker call failed; callers translate it into one of the above
    └── DockerTimeout          the call was killed at its deadline
"""

from __future__ import annotations

from typing import Any, ClassVar


class OrchestrarError(Exception):
    """An error with its HTTP status and its stable `code`."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    # Whether a start that fails with it would probably fail again, so that the next attempt has to wait.
    backs_off: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details or {}
        self.retry_after_s = retry_after_s


class ConfigInvalid(OrchestrarError):
    """Every mistake in a configuration, one line each: `file:line: field: what is wrong; what to write`."""

    status = 400
    code = "config_invalid"
    type = "invalid_request_error"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), details={"problems": problems})
        self.problems = problems


class InstanceRuns(OrchestrarError):
    """Another controller manages the same project."""

    code = "instance_runs"


class RequestError(OrchestrarError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class BodyInvalid(RequestError):
    code = "invalid_body"


class TaskUnsupported(RequestError):
    """The model is for another task: an embedding model cannot chat."""

    code = "task_unsupported"


class HostForbidden(RequestError):
    status = 403
    code = "host_forbidden"


class OriginForbidden(RequestError):
    status = 403
    code = "origin_forbidden"


class ModelNotFound(RequestError):
    status = 404
    code = "model_not_found"


class RouteNotFound(RequestError):
    status = 404
    code = "route_not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The client sent its request too slowly."""

    status = 408
    code = "request_timeout"


class ModelBusy(RequestError):
    """The model's state does not allow this now; the client can change the state."""

    status = 409
    code = "model_busy"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class ContentTypeForbidden(RequestError):
    status = 415
    code = "content_type_forbidden"


class Unavailable(OrchestrarError):
    status = 503
    code = "unavailable"
    backs_off = False

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **kwargs: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **kwargs)


class ModelPreparing(Unavailable):
    code = "model_preparing"


class ModelStopping(Unavailable):
    code = "model_stopping"


class ModelPaused(Unavailable):
    """A user has paused the model's container; the controller never unpauses it."""

    code = "model_paused"


class Overloaded(Unavailable):
    code = "overloaded"


class BackingOff(Unavailable):
    """The model failed repeatedly; its next start has to wait. `details` is the last failure card."""

    code = "backing_off"


class NoRoom(Unavailable):
    """The model does not fit the memory budget, and no other model may be stopped for it."""

    code = "insufficient_memory"


class FilesUnwritable(Unavailable):
    """The controller cannot write its files: the disk is full or read-only."""

    code = "files_unwritable"


class StartFailed(Unavailable):
    """The model's start failed; `details` is the failure card."""

    code = "start_failed"
    backs_off = True


class StartInterrupted(StartFailed):
    """A user paused, stopped or removed the container during the start."""

    backs_off = False


class ImageMissing(Unavailable):
    """The model's image is not on this machine; a start never downloads one."""

    code = "image_missing"

    def __init__(self, message: str, *, is_built_here: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.is_built_here = is_built_here


class DockerUnavailable(Unavailable):
    code = "docker_unavailable"


class DeadlineExceeded(OrchestrarError):
    """The model was not ready before the request's deadline; the start continues."""

    status = 504
    code = "deadline_exceeded"


class UpstreamError(OrchestrarError):
    status = 502
    code = "upstream_failed"


class ModelDied(UpstreamError):
    code = "model_died"


class UpstreamInvalid(UpstreamError):
    """The model's answer is not valid (a redirect, broken JSON, an endless header)."""

    code = "upstream_invalid"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class ShutDown(UpstreamError):
    """The controller ended before the model's answer."""

    status = 503
    code = "shutting_down"


class UpstreamAnswered(UpstreamError):
    """The model itself answered an error: its status (5xx becomes 502, except 503) and its error body."""

    code = "model_error"

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        # The reasons for a runner's 503 are short: its last client has just left, or it is still loading.
        super().__init__(str(body["error"].get("message", "")), retry_after_s=1.0 if status == 503 else None)
        self.upstream_status = status if status < 500 or status == 503 else 502
        self.body = body


class SourceError(Unavailable):
    code = "source_failed"
    backs_off = True


class ChecksumMismatch(SourceError):
    code = "checksum_mismatch"


class AccessDenied(SourceError):
    code = "source_access_denied"


class Cancelled(SourceError):
    code = "cancelled"
    backs_off = False


class PreparationFailed(Unavailable):
    """Converting a model's files failed; `details` is the failure card."""

    code = "preparation_failed"
    backs_off = True


class ModelUnfit(PreparationFailed):
    """The engine cannot serve this model exactly; another may. `reason` is the engine's own sentence."""

    def __init__(self, message: str, *, reason: str = "", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.reason = reason


class PortTaken(Unavailable):
    code = "port_taken"


class DockerError(OrchestrarError):
    """A Docker call failed; the message repeats what Docker wrote to stderr."""

    code = "docker_failed"
    backs_off = False


class DockerTimeout(DockerError):
    code = "docker_timeout"
