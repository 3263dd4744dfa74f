"""Distribution matching: the gradient of a shot is the difference of two networks' scores.

Called by both self-forcing stages. ``gradient`` is the maths alone; ``ScoreMatch`` holds the three
networks: the student that makes shots, the teacher that knows real ones (with guidance), and the
critic that keeps learning what the student's shots look like.

Source: DMD2 and ShotStream stages 1 and 2 (``score_distillation_frameconcat``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.product import Weights
from ..common.step_rng import StepRng
from .learner import Learner
from .levels import clean_of, draw_levels, mean_square, mix
from .rollout import RolloutPlan, roll_out
from .sampler import guided_flow, teacher_flow
from .shot_batch import Conditioning
from .stage_config import DmdConfig
from .stage_services import StageServices, StepLoss


def gradient(shot: Tensor, fake: Tensor, real: Tensor, *, normalised: bool = True) -> Tensor:
    """Direction in which the shot's distribution leaves the real one.

    ``fake - real``, divided by the mean of ``|shot - real|``; times ``1 / sigma^2`` and the signal
    level it is the difference of scores, so its average is the gradient of the KL divergence.

    Args:
        shot: ``[B, ...]`` clean.
        fake: the critic's clean answer to the noised shot.
        real: the teacher's.
        normalised: divide, per sample; what is not a number becomes 0.

    Returns:
        Like ``shot``.
    """
    away = fake - real
    if not normalised:
        return away
    scale = (shot - real).abs().flatten(1).mean(1).view(-1, *[1] * (shot.dim() - 1))
    return torch.nan_to_num(away / scale)


def moving_loss(shot: Tensor, direction: Tensor) -> Tensor:
    """Return a loss whose gradient in ``shot`` is ``direction`` over the number of elements."""
    wanted = (shot.double() - direction.double()).detach()
    return 0.5 * torch.nn.functional.mse_loss(shot.double(), wanted)


class ScoreMatch:
    """Student, teacher and critic.

    Args:
        services: shared parts.
        config: of the stage.
        student: weights to start from.
        teacher: weights of the real score, and of the critic at first.
    """

    def __init__(
        self, services: StageServices, config: DmdConfig, student: Weights, teacher: Weights
    ) -> None:
        self._services, self._config = services, config
        lora = {"lora_rank": config.lora_rank, "lora_alpha": config.lora_alpha}
        self.student = services.trainable(student, **lora)  # type: ignore[arg-type]
        self._critic = services.trainable(teacher, **lora)  # type: ignore[arg-type]
        self._teacher = services.frozen(teacher)
        self.learners = {
            "student": Learner({"": self.student}, config.optimizer, services.processes, student),
            "critic": Learner({"": self._critic}, config.critic, services.processes, teacher),
        }

    def turn(self, step: int) -> str:
        """Return whose step it is; the critic first learns what it is to judge."""
        since, cycle = step - self._config.critic_warmup, self._config.critic_updates + 1
        return "student" if since >= 0 and since % cycle == 0 else "critic"

    def judge(self, told: Conditioning, plan: RolloutPlan, rng: StepRng) -> tuple[Tensor, Tensor]:
        """Compare the critic with what it began as, on shots the student makes now.

        The student's own loss says little: it is as large as the critic lets it be. The critic's
        alone says little too, for its subject moves; on the same shots and noise, the teacher it
        was copied from stands still.

        Args:
            told: context and captions.
            plan: of the rollout.
            rng: random numbers.

        Returns:
            The critic's flow loss minus the teacher's, 0 at first, and the shots.
        """
        shot = roll_out(self.student, told, plan, rng, exit_step=rng.choice(range(plan.steps)))
        times, levels = self._levels(shot, rng)
        noise = rng.normal_like(shot)
        noisy, clean = mix(shot, noise, levels), self._services.config.context_clean
        losses = [
            mean_square(
                teacher_flow(net, told, noisy, times, context_clean=clean) - (noise - shot)
            ).mean()
            for net in (self._critic, self._teacher)
        ]
        return losses[0] - losses[1], shot

    def step(
        self,
        step: int,
        told: Conditioning,
        plain: Conditioning,
        plan: RolloutPlan,
        rng: StepRng,
    ) -> tuple[StepLoss, Tensor, int]:
        """Roll a shot out and judge it.

        Args:
            step: number of the step.
            told: what the shot follows.
            plain: the unconditional side.
            plan: of the rollout.
            rng: random numbers; the exit step is the same on every process.

        Returns:
            The loss, the shot (without gradients) and the exit step.
        """
        role = self.turn(step)
        exit_step = rng.choice(range(plan.steps))
        shot = roll_out(
            self.student, told, plan, rng, exit_step=exit_step, gradients=role == "student"
        )
        if role == "student":
            return self._student_loss(shot, told, plain, rng), shot.detach(), exit_step
        return self._critic_loss(shot, told, rng), shot, exit_step

    def _levels(self, shot: Tensor, rng: StepRng) -> tuple[Tensor, Tensor]:
        config = self._config
        return draw_levels(
            self._services.schedule, rng, len(shot), low=config.min_time, high=config.max_time,
            rounded=self._services.config.quirks.rounded_times,
        )  # fmt: skip

    def _student_loss(
        self, shot: Tensor, told: Conditioning, plain: Conditioning, rng: StepRng
    ) -> StepLoss:
        clean = self._services.config.context_clean
        with torch.no_grad():
            times, levels = self._levels(shot, rng)
            noisy = mix(shot, rng.normal_like(shot), levels)
            fake_flow = teacher_flow(self._critic, told, noisy, times, context_clean=clean)
            real_flow = guided_flow(
                self._teacher, told, plain, noisy, times, guidance=self._config.guidance,
                context_clean=clean,
            )  # fmt: skip
            fake = clean_of(noisy, fake_flow, levels)
            real = clean_of(noisy, real_flow, levels)
            direction = gradient(shot, fake, real)
            scalars = {
                "distance_to_real": mean_square(shot - real).mean(),
                "distance_of_scores": mean_square(fake - real).mean(),
                "shot_std": shot.std(),
            }
        return StepLoss(learner="student", loss=moving_loss(shot, direction), scalars=scalars)

    def _critic_loss(self, shot: Tensor, told: Conditioning, rng: StepRng) -> StepLoss:
        times, levels = self._levels(shot, rng)
        noise = rng.normal_like(shot)
        flow = teacher_flow(
            self._critic, told, mix(shot, noise, levels), times,
            context_clean=self._services.config.context_clean,
        )  # fmt: skip
        return StepLoss(learner="critic", loss=mean_square(flow - (noise - shot)).mean())
