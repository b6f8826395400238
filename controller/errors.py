"""Every failure that Orchestrar names.

OrchestrarError
├── ConfigInvalid              400 config_invalid    models.yaml or a setting is wrong; at the start exit code 2
├── InstanceRuns               another controller minds this project (exit code 1, never an HTTP answer of its own)
├── RequestError               the client's doing
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
├── Unavailable                503, trying again later helps
│   ├── ModelPreparing         503 model_preparing
│   ├── ModelStopping          503 model_stopping
│   ├── ModelPaused            503 model_paused      by hand, and it goes on by hand
│   ├── Overloaded             503 overloaded
│   ├── BackingOff             503 backing_off       `details` holds the last failure's card
│   ├── NoRoom                 503 insufficient_memory   `details` names what holds the memory
│   ├── StartFailed            503 start_failed      `details` holds the failure card
│   │   └── StartInterrupted   503 start_failed      somebody's doing from outside, so no failure of the model
│   ├── ImageMissing           503 image_missing     `details` holds the commands that fetch it
│   ├── PreparationFailed      503 preparation_failed
│   ├── PortTaken              503 port_taken
│   ├── FilesUnwritable        503 files_unwritable
│   ├── DockerUnavailable      503 docker_unavailable
│   └── SourceError            503 source_failed     a download or a look at a model's files failed
│       ├── ChecksumMismatch   503 checksum_mismatch
│       ├── AccessDenied       503 source_access_denied
│       └── Cancelled          503 cancelled
├── DeadlineExceeded           504 deadline_exceeded
├── UpstreamError              the model's doing
│   ├── ModelDied              502 model_died
│   ├── UpstreamInvalid        502 upstream_invalid
│   ├── UpstreamTimeout        504 upstream_timeout
│   ├── ShutDown               503 shutting_down     the controller's doing, in the middle of a model's answer
│   └── UpstreamAnswered       the model's own status and error body, passed on as they are
└── DockerError                a Docker call failed; callers turn it into one of the above
    └── DockerTimeout          the call was killed at its deadline
"""

from __future__ import annotations

from typing import Any, ClassVar


class OrchestrarError(Exception):
    """A failure with its HTTP status, its stable `code` and whether trying again helps."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    # Whether a start that ends with it would end so again, so that the next try has to wait.
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
    """All that is wrong in a configuration, one line each: `file:line: field: what is wrong, what to write`."""

    status = 400
    code = "config_invalid"
    type = "invalid_request_error"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), details={"problems": problems})
        self.problems = problems


class InstanceRuns(OrchestrarError):
    """Another controller minds the same project."""

    code = "instance_runs"


class RequestError(OrchestrarError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class BodyInvalid(RequestError):
    code = "invalid_body"


class TaskUnsupported(RequestError):
    """The model is for something else: no chat model asked to chat."""

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
    """The client sends its request too slowly."""

    status = 408
    code = "request_timeout"


class ModelBusy(RequestError):
    """The model's state does not allow this now, and the client can change that."""

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
    """Somebody has paused the model's container; only they let it go on."""

    code = "model_paused"


class Overloaded(Unavailable):
    code = "overloaded"


class BackingOff(Unavailable):
    """The model failed again and again; it is tried again later. `details` is the last failure's card."""

    code = "backing_off"


class NoRoom(Unavailable):
    """The memory budget has no place for the model, and nothing that holds it can go."""

    code = "insufficient_memory"


class FilesUnwritable(Unavailable):
    """The controller cannot keep what it has to: a full disk, or one that is read-only now."""

    code = "files_unwritable"


class StartFailed(Unavailable):
    """The model's start failed; `details` is the failure card."""

    code = "start_failed"
    backs_off = True


class StartInterrupted(StartFailed):
    """Somebody paused, stopped or removed the container while the model started."""

    backs_off = False


class ImageMissing(Unavailable):
    """The model's image is not on this machine, and no start fetches one on its own."""

    code = "image_missing"


class DockerUnavailable(Unavailable):
    code = "docker_unavailable"


class DeadlineExceeded(OrchestrarError):
    """The model was not ready before the request's deadline; the start goes on."""

    status = 504
    code = "deadline_exceeded"


class UpstreamError(OrchestrarError):
    status = 502
    code = "upstream_failed"


class ModelDied(UpstreamError):
    code = "model_died"


class UpstreamInvalid(UpstreamError):
    """The model answered with something that is no answer (a redirect, broken JSON, an endless header)."""

    code = "upstream_invalid"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class ShutDown(UpstreamError):
    """The controller had to end before the model's answer did."""

    status = 503
    code = "shutting_down"


class UpstreamAnswered(UpstreamError):
    """The model itself refused or failed: its status (5xx becomes 502, but for 503) and its error body."""

    code = "model_error"

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        # A runner says 503 for a moment's reasons: its last client has just left, or it is still loading.
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


class PortTaken(Unavailable):
    code = "port_taken"


class DockerError(OrchestrarError):
    """A Docker call failed; the message keeps what Docker wrote to stderr."""

    code = "docker_failed"
    backs_off = False


class DockerTimeout(DockerError):
    code = "docker_timeout"
