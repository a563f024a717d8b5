"""Where the weights of a run come from that starts from those of another, ``train.init_from``."""

from seq2seq.config import Config, flatten, toml_value
from seq2seq.data.prepare import load_inherited
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder
from seq2seq.training import distributed as dist
from seq2seq.translator import load_model
from seq2seq.utils import UserError, warn


def initial_model(config: Config, run: RunFolder, tokenizer: Tokenizer) -> Seq2Seq:
    """The best model of the run ``train.init_from``; ``UserError`` if it does not fit ``config``.

    Says which settings differ without changing a shape: an attention's score, say.
    """
    old = RunFolder(config.train.init_from)
    if load_inherited(config, run).fingerprint != tokenizer.fingerprint:
        how = "seq2seq prepare copies that"
        raise UserError(f"{run.tokenizer_file}: not that of train.init_from, {old}; {how}")
    saved, wanted = flatten(old.load_config()), flatten(config)
    differs = ", ".join(
        f"{key} = {toml_value(saved[key])} (here {toml_value(value)})"
        for key, value in wanted.items()
        if key.startswith(("model.", "data.src", "data.tgt")) and key != "model.dropout"
        if saved[key] != value
    )
    try:
        model = load_model(old, config, tokenizer)
    except UserError as error:
        why = f"; it was trained with {differs}" if differs else ""
        raise UserError(f"train.init_from: {error}{why}") from None
    if dist.rank() == 0 and differs:
        warn(f"train.init_from: {old} was trained with {differs}")
    if dist.rank() == 0 and not old.summary_file.exists():
        warn(f"train.init_from: {old} has not finished training: from its best weights so far")
    return model
