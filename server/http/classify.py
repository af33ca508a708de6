"""`POST /classify`: a photo as the body, or photos in a form, answered as `Classify` answers."""

from __future__ import annotations

from starlette.responses import Response

from glimpse.server.domain import EncodedImage, ModelSelector
from glimpse.server.http import answers, form, options
from glimpse.server.http.endpoint import Asked
from glimpse.server.service import Service

_KNOWN = ("model", "version", *options.NAMES)


class Classify:
    """Its answers."""

    names = options.names("image")

    def __init__(self, service: Service) -> None:
        """Have `service` classify."""
        self._service = service

    async def __call__(self, asked: Asked) -> Response:
        """Classify what came.

        A photo that cannot be classified is the error of the request where it is the only one, else its own.
        """
        call = asked.call
        texts, files, name = _read(asked)
        asked.body = b""
        selector = ModelSelector(texts.get("model", ""), texts.get("version", ""))
        chosen = options.of_texts(texts)
        self._service.check_size(call, selector.name, len(files))
        request = chosen.request(tuple(EncodedImage(each) for each in files), selector)
        del files
        answer = await self._service.classify(request, call, asked.caller)
        if len(answer.results) == 1 and (error := answer.results[0].error) is not None:
            self._service.failed(answer, call)
            raise error.of_request(name, 0, 1)
        self._service.replied(answer, call)
        return await answers.classification(answer)


def _read(asked: Asked) -> tuple[dict[str, str], list[bytes], str]:
    """What is asked for besides images, the image files, and the name of the first one, "" where it is the body.

    Raises:
        InvalidRequestError: expected; the form or the query is not one of this method.
    """
    query = dict(asked.request.query_params)
    content_type = asked.request.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        found = form.read(asked.body, content_type)
        texts, files, image = {**query, **found.texts}, found.files, "".join(found.names[:1])[:80]
    else:  # whatever it says that it is: curl calls a file a form's fields
        texts, files, image = query, [asked.body], ""
    options.check_known(texts, _KNOWN)
    return texts, files, image
