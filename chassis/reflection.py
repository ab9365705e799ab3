"""gRPC reflection for whoever explores a service by hand: loaded when it is first asked, because no start needs it."""

from collections.abc import AsyncIterator, Sequence

import grpc

SERVICE_NAME = "grpc.reflection.v1alpha.ServerReflection"


def reflection(service_names: Sequence[str]) -> grpc.GenericRpcHandler:
    """The handler to add to a server of these services."""

    async def serve(
        requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> AsyncIterator[bytes]:
        from grpc_reflection.v1alpha.reflection import aio
        from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

        decoded = (ServerReflectionRequest.FromString(request) async for request in requests)
        servicer = aio.ReflectionServicer([*service_names, SERVICE_NAME])
        async for reply in servicer.ServerReflectionInfo(decoded, context):
            yield reply.SerializeToString()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(serve)
    return grpc.method_handlers_generic_handler(SERVICE_NAME, {"ServerReflectionInfo": handler})
