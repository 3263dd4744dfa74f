"""Distribution matching: its gradient where the answer is known, and its place in a stage."""

from __future__ import annotations

import torch
from torch import Tensor

from shotstream_distill.paper.dmd import gradient, moving_loss


def posterior(x: Tensor, mean: float, std: float, alpha: float, sigma: float) -> Tensor:
    """The best clean guess at ``x = alpha * x0 + sigma * noise`` for a Gaussian ``x0``."""
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (x - alpha * mean)


def divergence(mean: Tensor, std: Tensor, real: tuple[float, float], sigma: float) -> Tensor:
    """KL of the noised generated Gaussian from the noised real one."""
    alpha = 1 - sigma
    fake_var = alpha**2 * std**2 + sigma**2
    real_var = alpha**2 * real[1] ** 2 + sigma**2
    gap = alpha * (mean - real[0])
    return 0.5 * (fake_var / real_var + gap**2 / real_var - 1 - (fake_var / real_var).log())


def test_the_gradient_is_that_of_the_divergence_between_gaussians() -> None:
    real, sigma, count = (0.7, 0.5), 0.4, 400_000
    alpha = 1 - sigma
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)

    mean = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    std = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    shot = mean + std * z
    noisy = (alpha * shot + sigma * noise).detach()
    fake = posterior(noisy, mean.item(), std.item(), alpha, sigma)
    true = posterior(noisy, *real, alpha, sigma)
    direction = gradient(shot.detach(), fake, true, normalised=False)
    (moving_loss(shot, direction) * alpha**2 / sigma**2).backward()
    assert mean.grad is not None
    assert std.grad is not None
    got = torch.stack((mean.grad, std.grad))

    mean.grad = std.grad = None
    divergence(mean, std, real, sigma).backward()
    assert mean.grad is not None
    assert std.grad is not None
    wanted = torch.stack((mean.grad, std.grad))
    torch.testing.assert_close(got, wanted, rtol=0.01, atol=0.005)


def test_following_the_gradient_reaches_the_real_distribution() -> None:
    real = (0.7, 0.5)
    generator = torch.Generator().manual_seed(1)
    mean = torch.tensor(-2.0, requires_grad=True)
    std = torch.tensor(2.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, std], lr=0.05)
    for step in range(600):
        sigma = 0.2 + 0.6 * (step % 7) / 6
        alpha = 1 - sigma
        shot = mean + std * torch.randn(256, 1, generator=generator)
        noisy = (alpha * shot + sigma * torch.randn(256, 1, generator=generator)).detach()
        fake = posterior(noisy, mean.item(), std.item(), alpha, sigma)
        direction = gradient(shot.detach(), fake, posterior(noisy, *real, alpha, sigma))
        optimizer.zero_grad()
        moving_loss(shot, direction).backward()
        optimizer.step()
    assert abs(mean.item() - real[0]) < 0.15
    assert abs(abs(std.item()) - real[1]) < 0.15


def test_the_gradient_is_scaled_per_sample_and_never_not_a_number() -> None:
    shot = torch.tensor([[2.0, 4.0], [1.0, 1.0]])
    real = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    fake = torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    got = gradient(shot, fake, real)
    torch.testing.assert_close(got, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_the_loss_moves_a_shot_by_the_direction() -> None:
    shot = torch.randn(2, 3, requires_grad=True)
    direction = torch.randn(2, 3)
    moving_loss(shot, direction).backward()
    assert shot.grad is not None
    torch.testing.assert_close(shot.grad * shot.numel(), direction)
