"""Results in a bucket of anything that speaks S3. While it is away the job is tried again.

boto3 is loaded at the first use, and its calls, which block, run in threads. The bucket must be there.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from chassis.errors import Code, TollbridgeError
from services.tasks.config import ResultsSection

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS = 2
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
T = TypeVar("T")


class S3Results:
    """The store that S3 offers."""

    def __init__(self, section: ResultsSection) -> None:
        self._section = section
        self._made: Any = None
        self._making = asyncio.Lock()

    async def put(self, file_id: str, data: bytes) -> None:
        """Keeps a file; the same id again replaces it. Raises UNAVAILABLE."""
        await self._call(lambda s3: s3.put_object(Bucket=self._section.bucket, Key=self._key(file_id), Body=data))

    async def read(self, file_id: str, *, start: int, length: int) -> bytes:
        """A part of a file. Raises NOT_FOUND or UNAVAILABLE."""
        part = f"bytes={start}-{start + length - 1}"

        def read(s3: Any) -> bytes:  # noqa: ANN401  boto3 makes its clients' types while it runs
            body = s3.get_object(Bucket=self._section.bucket, Key=self._key(file_id), Range=part)["Body"]
            data: bytes = body.read(length)
            return data

        return await self._call(read)

    async def delete(self, file_id: str) -> None:
        """Removes a file; that there is none is no failure. Raises UNAVAILABLE."""
        await self._call(lambda s3: s3.delete_object(Bucket=self._section.bucket, Key=self._key(file_id)))

    async def close(self) -> None:
        """Ends the connections."""
        made, self._made = self._made, None
        if made is not None:
            await asyncio.to_thread(made.close)

    def _key(self, file_id: str) -> str:
        return self._section.prefix + file_id

    async def _call(self, run: Callable[[Any], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(_client, self._section)
        try:
            return await asyncio.to_thread(run, self._made)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _MISSING:
                raise TollbridgeError(Code.NOT_FOUND, "There is no such file.") from error
            raise _unavailable() from error
        except (BotoCoreError, OSError) as error:
            raise _unavailable() from error


def _client(section: ResultsSection) -> Any:  # noqa: ANN401  boto3 makes its clients' types while it runs
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=section.endpoint or None,
        region_name=section.region or "us-east-1",
        aws_access_key_id=section.access_key or None,
        aws_secret_access_key=section.secret_key or None,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"max_attempts": ATTEMPTS, "mode": "standard"},
            s3={"addressing_style": "path" if section.endpoint else "auto"},
        ),
    )


def _unavailable() -> TollbridgeError:
    return TollbridgeError(Code.UNAVAILABLE, "The object store can't be reached now.", retry_after_s=1)
