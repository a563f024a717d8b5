"""The weights of a run, by name: which there are, and whether they are those of its model."""

from torch import Tensor, nn

from seq2seq.config import Config
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.model.transformer import Seq2Seq, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; a shared one once, by its first name."""
    stored = model.state_dict()
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in named if name in stored}


def _describe(tensor: Tensor | None) -> str:
    """Its shape and type, if it is there; the floating-point types of weights are one type."""
    if tensor is None:
        return "missing"
    is_float = tensor.is_floating_point() and tensor.itemsize > 1
    return f"{tuple(tensor.shape)} of {'floats' if is_float else tensor.dtype}"


def load_model(run: RunFolder, config: Config, tokenizer: Tokenizer) -> Seq2Seq:
    """The best model of ``run``; ``UserError`` unless its weights are those of ``config``'s."""
    saved = run.load_weights(tokenizer.fingerprint)
    n_layers = config.model.encoder_layers + config.model.decoder_layers
    if n_layers > len(saved) or config.model.d_model > sum(x.numel() for x in saved.values()):
        raise UserError(f"{run.weights_file}: too little for the model of the configuration")
    wanted = named_tensors(empty_model(config))  # the configuration's sizes may be any
    for name in sorted(wanted.keys() | saved.keys()):
        has, wants = (_describe(tensors.get(name)) for tensors in (saved, wanted))
        if has != wants:
            problem = f"{name!r:.99} is {has}, and {wants} by the configuration: train again"
            raise UserError(f"{run.weights_file}: {problem}")
    model = Seq2Seq.build(config.model, tokenizer)
    for name, tensor in named_tensors(model).items():
        if not tensor.detach().copy_(saved[name]).isfinite().all():
            raise UserError(f"{run.weights_file}: {name!r} is not finite: train again")
    return model
