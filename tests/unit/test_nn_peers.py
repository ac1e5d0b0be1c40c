"""The same loss and the same gradients as Hugging Face's GPT-2 in PyTorch."""

import numpy as np
import pytest

from hpcpar.nn import Arena, Flat, gpt

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("length", [96, 37])
def test_gpt2(length):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    layers, heads, width, context, vocabulary = 3, 4, 64, 96, 211
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        n_positions=context,
        vocab_size=vocabulary,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        initializer_range=0.15,
    )
    theirs = transformers.GPT2LMHeadModel(config)
    ours = gpt(layers, heads, width, context, vocabulary)

    flat, arena = Flat(ours.parameters, np), Arena()
    weights, gradients = flat.empty(), flat.empty_gradients()
    p, g = flat.params_views(weights), flat.gradient_views(gradients)
    state = dict(theirs.named_parameters())
    assert set(state) == set(flat.names)
    for name in flat.names:
        p[name][...] = state[name].detach().numpy()

    tokens = torch.randint(0, vocabulary, (3, length + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    logits = theirs(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocabulary), targets.reshape(-1))
    loss.backward()

    count = targets.numel()
    total = ours.loss_and_gradients(p, g, inputs.numpy(), targets.numpy(), 1 / count, arena)
    flat.fold(g)
    assert total / count == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(
        ours.logits(p, inputs.numpy(), arena), logits.detach().numpy(), rtol=1e-4, atol=1e-4
    )
    for name in flat.names:
        expected = state[name].grad.numpy()
        error = np.linalg.norm(g[name] - expected) / np.linalg.norm(expected)
        assert error < 1e-4, f"{name}: {error}"
