"""gRPC in for payments: each method converts, makes one call, and converts back."""

from uuid import UUID

from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext, Handler, RpcService
from services.billing import charges
from services.billing.payments.checkout import Checkout
from services.billing.payments.desk import PaymentDesk
from services.billing.payments.payment import Method, Payment
from services.billing.payments.watch import CryptoPayments, Watch
from tollbridge.billing.v1 import payments_pb2 as pb

EDGE = frozenset({"edge"})
MAX_REQUEST_ID = 200
MAX_URL = 2000
MAX_BODY = 1 << 20


class PaymentServer:
    """The methods of PaymentService."""

    def __init__(self, *, desk: PaymentDesk, checkout: Checkout, crypto: CryptoPayments, watch: Watch) -> None:
        self._desk = desk
        self._checkout = checkout
        self._crypto = crypto
        self._watch = watch

    def service(self) -> RpcService:
        """Every method with those who may call it; a call is safe to repeat by its own ids."""
        handlers = {
            "CreateCheckout": Handler(self.create_checkout, EDGE),
            "CreateCryptoPayment": Handler(self.create_crypto_payment, EDGE),
            "GetPayment": Handler(self.get_payment, EDGE | {"cli"}),
            "ReceiveWebhook": Handler(self.receive_webhook, EDGE),
        }
        return RpcService(descriptor=pb.DESCRIPTOR.services_by_name["PaymentService"], handlers=handlers)

    async def create_checkout(self, request: pb.CreateCheckoutRequest, _: CallContext) -> pb.CreateCheckoutResponse:
        if not request.return_url.startswith(("http://", "https://")) or len(request.return_url) > MAX_URL:
            raise _invalid("return_url")
        payment = await self._checkout.create(
            customer_id=_customer(request.customer_id),
            amount_nano_usd=request.amount_nano_usd,
            request_id=_request_id(request.request_id),
            return_url=request.return_url,
        )
        return pb.CreateCheckoutResponse(payment=_message(payment))

    async def create_crypto_payment(
        self, request: pb.CreateCryptoPaymentRequest, _: CallContext
    ) -> pb.CreateCryptoPaymentResponse:
        payment = await self._crypto.create(
            customer_id=_customer(request.customer_id),
            amount_nano_usd=request.amount_nano_usd,
            request_id=_request_id(request.request_id),
        )
        return pb.CreateCryptoPaymentResponse(payment=_message(payment))

    async def get_payment(self, request: pb.GetPaymentRequest, _: CallContext) -> pb.GetPaymentResponse:
        try:
            payment_id = UUID(request.payment_id)
        except ValueError:
            raise TollbridgeError(Code.NOT_FOUND, "There is no such payment.") from None
        payment = await self._desk.find(payment_id, customer_id=request.customer_id)
        return pb.GetPaymentResponse(payment=_message(payment))

    async def receive_webhook(self, request: pb.ReceiveWebhookRequest, _: CallContext) -> pb.ReceiveWebhookResponse:
        if len(request.body) > MAX_BODY:
            raise TollbridgeError(Code.REQUEST_TOO_LARGE, "The webhook is too large.")
        if request.provider == Method.STRIPE:
            await self._checkout.receive(request.body, request.signature)
        elif request.provider == Method.CRYPTO:
            self._watch.look_soon()
        else:
            raise _invalid("provider")
        return pb.ReceiveWebhookResponse()


def _message(payment: Payment) -> pb.Payment:
    return pb.Payment(
        id=str(payment.id),
        method=str(payment.method),
        status=str(payment.state),
        amount_nano_usd=payment.amount_nano_usd,
        credited_nano_usd=payment.credited_nano_usd,
        reversed_nano_usd=payment.reversed_nano_usd,
        expires_at_us=payment.expires_at_us,
        created_at_us=payment.created_at_us,
        note=payment.note,
        url=payment.url,
        address=payment.address,
        network="TRC-20" if payment.address else "",
        amount_micro_usdt=payment.amount_micro_usdt,
    )


def _customer(text: str) -> str:
    if not charges.is_customer_id(text):
        raise _invalid("customer_id")
    return text


def _request_id(text: str) -> str:
    if not 1 <= len(text) <= MAX_REQUEST_ID or "\x00" in text:
        raise _invalid("request_id")
    return text


def _invalid(name: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{name} is missing or malformed", details={"param": name})
