"""The package from Python: what README shows, on the bundled base."""

import subprocess
import sys
from pathlib import Path

import pytest

import lora_nlg
from lora_nlg import errors
from lora_nlg.config import BeamConfig, OptimConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
BASE, VOCAB = ROOT / "pretrained_checkpoints" / "gpt2.mini", ROOT / "vocab"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (VOCAB / "encoder.json").is_file(), reason="no vocabulary: bash scripts/00_setup.sh"),
]
PAIRS = [(f"name : The {name} Jar | Type : pub", f"The {name} Jar is a pub .") for name in ("Tall", "Red")]
RULES = BeamConfig(2, 12, length_penalty=0.8, eos_token_ids=(50256, 628))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained on two pairs, and its work dir."""
    work_dir = tmp_path_factory.mktemp("api")
    model = lora_nlg.load(BASE, vocab=VOCAB, device="cpu")
    optim, settings = OptimConfig(4e-3, 30, correct_bias=True), TrainConfig(2, 2, log_interval=30)
    return model, work_dir, model.train(PAIRS * 2, PAIRS, work_dir, optim=optim, settings=settings)


def test_a_trained_model_says_what_it_learnt(trained):
    """Fails when the pairs are encoded otherwise than gpt2_encode.py does, or the adapters do not decode."""
    model, _, loss = trained
    assert loss < 1.0
    [best] = model.generate(PAIRS[0][0], rules=RULES)
    assert best.text == PAIRS[0][1] and best.score < 0


def test_saved_adapters_load_again_and_on_their_own_base_only(trained, tmp_path):
    model, work_dir, _ = trained
    model.save(tmp_path / "adapters.safetensors")
    for file in (tmp_path / "adapters.safetensors", work_dir / "model.final.pt"):
        again = lora_nlg.load(BASE, file, vocab=VOCAB, device="cpu")
        assert [a.text for a in again.generate(PAIRS[1][0], 2, RULES)] == [
            a.text for a in model.generate(PAIRS[1][0], 2, RULES)
        ]
    with pytest.raises(errors.UserError, match="was trained on another base"):
        lora_nlg.load("random", file, card="gpt2.mini", vocab=VOCAB, device="cpu")


def test_mistakes_are_sentences(trained, tmp_path):
    model = lora_nlg.load(BASE, vocab=VOCAB, device="cpu")
    with pytest.raises(errors.UserError, match="no adapters were trained since the model was loaded"):
        model.save(tmp_path / "none.safetensors")
    with pytest.raises(errors.UserError, match=r"has no config\.json; pass the shape of the model as card"):
        lora_nlg.load(BASE / "model.safetensors" / "none", vocab=VOCAB)
    with pytest.raises(errors.UserError, match="tokens are too many"):
        model.generate("a " * 500, rules=RULES)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        lora_nlg.lode  # noqa: B018


def test_importing_the_package_imports_no_torch():
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import lora_nlg; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
