"""The slow twins: what a textbook says, one example at a time, with nothing factored or chunked."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsdm.data.batches import IGNORED, Row, collate
from dsdm.learners.layers import Layer

Named = dict[str, Tensor]


def plain_output(model: PreTrainedModel, row: Row, output: str) -> Tensor:
    """The mean over the row's counted tokens of log p, or of log p/(1-p), by the model's logits."""
    batch = collate([row])
    counted = batch.labels[0] != IGNORED
    logits = model(input_ids=batch.inputs).logits[0][counted]
    labels = batch.labels[0][counted]
    p = logits.softmax(1)[torch.arange(len(labels)), labels]
    values = p.log() if output == "loglik" else (p / (1 - p)).log()
    return values.mean()


def example_gradient(
    model: PreTrainedModel, row: Row, output: str, names: Sequence[str] | None = None
) -> Named:
    """The gradient of one example's output, by parameter name."""
    named = dict(model.named_parameters())
    names = list(named) if names is None else list(names)
    parameters = [named[name] for name in names]
    gradients = torch.autograd.grad(
        plain_output(model, row, output), parameters, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, gradients, strict=True))


def loop_gradient(
    model: PreTrainedModel, rows: Iterable[Row], output: str, names: Sequence[str] | None = None
) -> Named:
    """The mean of the examples' gradients, one backward pass for each."""
    gradients = [example_gradient(model, row, output, names) for row in rows]
    return {name: torch.stack([g[name] for g in gradients]).mean(0) for name in gradients[0]}


def layer_gradients(
    model: PreTrainedModel, layers: Sequence[Layer], rows: Iterable[Row], output: str
) -> Named:
    """Each layer's (example, out, in) gradients, a bias in the last column."""
    names = [name for layer in layers for name in layer.parameter_names]
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for row in rows:
        gradient = example_gradient(model, row, output, names)
        for layer in layers:
            weight = gradient[layer.name].T if layer.transposed else gradient[layer.name]
            if layer.bias_name is not None:
                weight = torch.cat([weight, gradient[layer.bias_name][:, None]], 1)
            found[layer.name].append(weight)
    return {name: torch.stack(matrices) for name, matrices in found.items()}


def token_factors(
    model: PreTrainedModel, module: nn.Module, row: Row, output: str
) -> tuple[Tensor, Tensor]:
    """What a module reads at each token of a row, and the row's gradient in what it writes."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda m, args, result: seen.append((args[0], result)))
    f = plain_output(model, row, output)
    handle.remove()
    ((inputs, result),) = seen
    (grads,) = torch.autograd.grad(f, [result])
    return inputs[0].detach(), grads[0]


def textbook_trak(
    phi_pool: Tensor, phi_candidates: Tensor, phi_targets: Tensor, damping: float
) -> Tensor:
    """phi(x_i)^T (Phi^T Phi / n + lambda I)^-1 mean phi(z), lambda relative to eigenvalues,

    of which no more than rows are not zero.
    """
    gram = phi_pool.T @ phi_pool / len(phi_pool)
    determined = torch.linalg.eigvalsh(gram)[-len(phi_pool) :]
    damped = gram + damping * determined.mean() * torch.eye(len(gram), dtype=gram.dtype)
    return phi_candidates @ torch.linalg.inv(damped) @ phi_targets.mean(0)


def dense_ekfac(
    inputs: Tensor, output_grads: Tensor, gradients: Tensor, target: Tensor, damping: float
) -> Tensor:
    """Q (Lambda + lambda I)^-1 Q^T vec(target) with Q = Q_S (x) Q_A as one dense matrix.

    Args:
        inputs: All tokens' inputs, shape (tokens, in).
        output_grads: All tokens' output gradients, shape (tokens, out).
        gradients: Each example's gradient, shape (examples, out, in).
        target: Shape (out, in).
        damping: As a share of the mean corrected eigenvalue.
    """
    q_a = torch.linalg.eigh(inputs.T @ inputs / len(inputs)).eigenvectors
    q_s = torch.linalg.eigh(output_grads.T @ output_grads / len(output_grads)).eigenvectors
    q = torch.kron(q_s, q_a)
    corrected = (gradients.flatten(1) @ q).square().mean(0)
    system = q @ torch.diag(corrected + damping * corrected.mean()) @ q.T
    return torch.linalg.solve(system, target.flatten()).view_as(target)


def dense_fisher_solve(gradients: Tensor, target: Tensor, damping: float) -> Tensor:
    """(E[vec G vec G^T] + lambda I)^-1 vec(target), nothing approximated."""
    flat = gradients.flatten(1)
    fisher = flat.T @ flat / len(flat)
    mean_eigenvalue = fisher.diagonal().mean()
    system = fisher + damping * mean_eigenvalue * torch.eye(len(fisher), dtype=fisher.dtype)
    return torch.linalg.solve(system, target.flatten()).view_as(target)


def assert_same(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names and, near enough for float64, the same tensors."""
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
