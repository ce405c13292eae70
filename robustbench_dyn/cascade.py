"""The cascade: clean, certify, attack what is left, the cheapest decisive tool first."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robustbench_dyn.alarm import keep_violation, raise_violations
from robustbench_dyn.attacks import Attack, resolve_attacks, surrogates_of
from robustbench_dyn.auditing import choose_audited
from robustbench_dyn.batch_size import choose_batch_size, is_out_of_memory
from robustbench_dyn.certification import Cost, Prepared, Proof, radii, resolve_certifiers
from robustbench_dyn.costs import StageCost
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.deduction import (
    NEXT,
    Tool,
    carry_over,
    first_verdict,
    hand_on,
    next_tool,
)
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import lipschitz_bound
from robustbench_dyn.identity import hash_configuration, identify, registered_identity
from robustbench_dyn.judging import CountingModel, judge, predict
from robustbench_dyn.masking import (
    N_EXAMPLES,
    black_box_gains,
    failed_white_box,
    find_signs,
    telling,
)
from robustbench_dyn.probing import are_probabilities, fingerprint, first_logits
from robustbench_dyn.store import Store
from robustbench_dyn.summary import count_statuses
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.verdicts import Sign, Status, Verdict

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

# An exhaustive search may take its whole time for each example, and what is known is kept.
_SEARCHED_AT_ONCE = 4
# Bump when the cascade's verdicts change, so that no old verdict is taken for a new one.
_CASCADE_VERSION = 7


class Progress(NamedTuple):
    """Where a run stands at one eps: examples whose verdict is final, of all, and the counts.

    stage: "certify", the name of the certifier or of the attack at work, or "done".
    """

    eps: float
    stage: str
    done: int
    total: int
    counts: dict[Status, int]


class Cascade:
    """One evaluation at work: what it depends on, its model, its data and its store."""

    def __init__(
        self, model: nn.Module, dataset: Dataset, store: Store, norm: Norm, device: torch.device,
        seed: int, batch_size: int | Literal["auto"], attacks: str | Sequence[str],
        certifiers: str | Sequence[str], audit_share: float, name: str | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:  # fmt: skip
        self.model = CountingModel(model)
        self.dataset, self.store, self.device, self.norm = dataset, store, device, norm
        self.seed, self.batch_size, self.audit_share = seed, batch_size, audit_share
        # What one chunk holds now: batch_size until memory runs out; 0 until it is measured.
        self.chunk_size = 0 if batch_size == "auto" else batch_size
        self.progress = progress
        self.row_of = {int(example): row for row, example in enumerate(dataset.ids)}
        self.flags = list[str]()
        # Signs of masked gradients: of the model, once looked for, and with others by eps.
        self.model_signs: list[Sign] | None = None
        self.signs = dict[float, list[Sign]]()
        # The names of attacks that raised an error, and of those that came to an end.
        self.failed, self.completed = set[str](), set[str]()
        # A registered model is checked at its first pass: a repeated run needs none at all.
        known = registered_identity(model) if dataset.n_classes else None
        self.checked = known is None
        # The verdicts at the eps of the moment, by example_id, as the store has them.
        self.verdicts = dict[int, Verdict]()
        self.n_classes = dataset.n_classes if known else self._first_logits().shape[1]
        self.identity = known or identify(
            model, fingerprint(self.model, dataset.x, device), name=name
        )
        self.attacks = resolve_attacks(
            attacks, norm, self.n_classes, has_surrogates=bool(surrogates_of(model))
        )
        self.certifiers = resolve_certifiers(certifiers, model, tuple(dataset.x.shape[1:]), norm)
        # Each comes in when all before it have left an example undecided.
        asked = {cost: [c for c in self.certifiers if c.certifier.cost is cost] for cost in Cost}
        self.tools: list[Attack | Prepared] = [
            *asked[Cost.LOW], *self.attacks[:1], *asked[Cost.HIGH], *self.attacks[1:],
            *asked[Cost.EXHAUSTIVE],
        ]  # fmt: skip
        self.record = self._describe(model, norm)
        self.key = hash_configuration(
            {k: self.record[k] for k in self.record if k not in ("flags", "evaluated_at")}
        )

    def run(self, threat_model: ThreatModel) -> tuple[Verdict, ...]:
        """Bring every example to its final verdict at one eps; return them by example_id."""
        self.store.add_evaluation(self.key, self.record)
        raise_violations(self.store, self.key, self.record["model"])
        kept = self.store.verdicts(self.key, threat_model.eps)
        self.verdicts = {v.example_id: v for v in kept if v.example_id in self.row_of}
        self.signs[threat_model.eps] = self.store.signs(self.key, threat_model.eps)
        self._classify_and_certify(threat_model)
        self._decide_what_is_left(threat_model)
        self._report(threat_model, "done")
        return tuple(self.verdicts[i] for i in sorted(self.verdicts))

    def costs(self, threat_model: ThreatModel) -> tuple[StageCost, ...]:
        """Return what one eps took, in the order of the stages, earlier runs included."""
        # A stage that was only carried on takes its place in the order of the cascade.
        stages = ["certify", *map(_name, self.tools), "signs"]
        costs = self.store.costs(self.key, threat_model.eps)
        return tuple(sorted(costs, key=lambda cost: stages.index(cost.stage)))

    def _classify_and_certify(self, threat_model: ThreatModel) -> None:
        new = [i for i in self.row_of if i not in self.verdicts]
        known = self._known_from_other_eps(threat_model) if new else {}
        self._keep(known[i] for i in new if i in known)
        missing = [i for i in new if i not in known]
        if missing and not self.checked:
            self.n_classes, self.checked = self._first_logits().shape[1], True
        work = partial(self._first_verdicts, threat_model, self._first_tool)
        for _ in self._in_chunks(missing, work):
            self._report(threat_model, "certify")

    def _first_verdicts(
        self, threat_model: ThreatModel, first_tool: str, ids: list[int]
    ) -> tuple[list[Verdict], StageCost]:
        started, before = time.perf_counter(), self.model.forward_passes
        x, y = self._tensors(ids)
        with torch.no_grad():
            logits = self.model(x)
        predictions = predict(logits).tolist()
        found, names = self._certify(x, logits, y, threat_model)
        forward, seconds = self.model.forward_passes - before, time.perf_counter() - started
        passes = _shares(forward, len(ids))
        verdicts = [
            first_verdict(
                example_id, int(y[k]), predictions[k], threat_model.eps, found[k], names[k],
                passes[k], seconds / len(ids), first_tool,
            )
            for k, example_id in enumerate(ids)
        ]  # fmt: skip
        decided = sum(v.status is not Status.UNDECIDED for v in verdicts)
        cost = StageCost(threat_model.eps, "certify", len(ids), decided, forward, 0, seconds)
        return verdicts, cost

    def _certify(
        self, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> tuple[list[float], list[str]]:
        best = [math.nan] * len(y)
        names = [""] * len(y)
        for prepared in self.certifiers:
            label = prepared.label(threat_model.norm)
            if prepared.certifier.at_any_eps:
                of_each = radii(self._ask(prepared, x, logits, y, threat_model)).tolist()
                for k, radius in enumerate(of_each):
                    if radius > 0 and not best[k] >= radius:
                        best[k], names[k] = radius, label
            # A row always says which certifier was asked, also where it proved nothing.
            names = [name or label for name in names]
        return best, names

    def _known_from_other_eps(self, threat_model: ThreatModel) -> dict[int, Verdict]:
        known: dict[int, list[Verdict]] = {}
        for verdict in self.store.verdicts(self.key):
            if verdict.example_id in self.row_of and verdict.eps != threat_model.eps:
                known.setdefault(verdict.example_id, []).append(verdict)
        proofs = [tool for tool in self.tools if isinstance(tool, Prepared)]
        first_proof = _name(proofs[0]) if proofs else ""
        return {
            i: carry_over(others, threat_model.eps, self._first_tool, first_proof)
            for i, others in known.items()
        }

    @property
    def _first_tool(self) -> str:
        return _name(self.tools[0]) if self.tools else ""

    def _decide_what_is_left(self, threat_model: ThreatModel) -> None:
        # Proofs since the attack before: a share of what they certified has the next one to pass.
        proofs = [c for c in self.certifiers if c.certifier.at_any_eps]
        for tool in self.tools:
            name = _name(tool)
            if isinstance(tool, Prepared):
                proofs.append(tool)
            else:
                self._keep(replace(v, reason=NEXT + name) for v in self._audit_sample(proofs))
                proofs = []
            turn = [v for v in self.verdicts.values() if next_tool(v) == name]
            turn.sort(key=lambda verdict: verdict.example_id)
            if turn:
                self._report(threat_model, name)
            if turn and isinstance(tool, Attack) and tool.only_on_signs:
                if not self._signs_at(threat_model, turn):
                    self._keep(self._hand_on(self.verdicts[v.example_id], tool) for v in turn)
                    continue
                turn = [self.verdicts[v.example_id] for v in turn]
            if isinstance(tool, Prepared):
                work = partial(self._prove, tool, threat_model)
                exhaustive = tool.certifier.cost is Cost.EXHAUSTIVE
                at_once = _SEARCHED_AT_ONCE if exhaustive else None
            else:
                work, at_once = partial(self._attack, tool, threat_model), None
            for _ in self._in_chunks(turn, work, at_once=at_once):
                raise_violations(self.store, self.key, self.record["model"])
                self._report(threat_model, name)

    def _signs_at(self, threat_model: ThreatModel, waiting: list[Verdict]) -> list[Sign]:
        """Return the signs of masked gradients at one eps; those of the model are looked for once.

        waiting: the examples that are charged with the passes.
        """
        eps = threat_model.eps
        if self.signs[eps]:
            return self.signs[eps]
        if self.model_signs is None:
            correct = [v.example_id for v in self.verdicts.values() if v.prediction == v.label]
            # One item: its batches are halved where memory runs out, but it is not split.
            work = partial(self._look_for_signs, threat_model, waiting)
            for _ in self._in_chunks([sorted(correct)[:N_EXAMPLES]], work):
                pass
        names = [attack.name for attack in self.attacks if not attack.only_on_signs]
        gains = black_box_gains(self.verdicts.values(), names)
        self.signs[eps] = [
            *(self.model_signs or ()),
            *telling(gains, len(self.verdicts)),
            *failed_white_box(names, self.failed - self.completed),
        ]
        self.store.add_signs(self.key, eps, self.signs[eps])
        if self.signs[eps]:
            log.warning("signs of masked gradients: %s", ", ".join(map(str, self.signs[eps])))
        return self.signs[eps]

    def _look_for_signs(
        self, threat_model: ThreatModel, waiting: list[Verdict], chunk: list[list[int]]
    ) -> tuple[list[Verdict], StageCost]:
        started = time.perf_counter()
        forwards, backwards = self.model.forward_passes, self.model.backward_passes
        x, y = self._tensors(chunk[0])
        self.model_signs = find_signs(
            self.model, x, y, n_classes=self.n_classes, batch_size=self.chunk_size, seed=self.seed
        )
        forward = self.model.forward_passes - forwards
        backward = self.model.backward_passes - backwards
        seconds = time.perf_counter() - started
        cost = StageCost(threat_model.eps, "signs", len(x), 0, forward, backward, seconds)
        shares = zip(_shares(forward, len(waiting)), _shares(backward, len(waiting)), strict=True)
        charged = [
            replace(
                verdict, forward_passes=verdict.forward_passes + n_forward,
                backward_passes=verdict.backward_passes + n_backward,
                seconds=verdict.seconds + seconds / len(waiting),
            )
            for verdict, (n_forward, n_backward) in zip(waiting, shares, strict=True)
        ]  # fmt: skip
        return charged, cost

    def _audit_sample(self, proofs: list[Prepared]) -> list[Verdict]:
        labels = {prepared.label(self.norm) for prepared in proofs}
        certified = [
            v
            for v in self.verdicts.values()
            if v.status is Status.CERTIFIED and v.certifier in labels
        ]
        chosen = choose_audited(certified, self.audit_share, self.seed)
        return [verdict for verdict in chosen if not verdict.reason]

    def _prove(
        self, prepared: Prepared, threat_model: ThreatModel, chunk: list[Verdict]
    ) -> tuple[list[Verdict], StageCost]:
        """Ask a certifier that looks at the ball."""
        started, before = time.perf_counter(), self.model.forward_passes
        x, y = self._tensors([verdict.example_id for verdict in chunk])
        with torch.no_grad():
            logits = self.model(x)
        proof = self._ask(prepared, x, logits, y, threat_model)
        proved = radii(proof).tolist()
        hits: dict[int, tuple[str, float, bytes]] = {}
        if proof.candidates is not None:
            hits = self._judge(prepared.certifier.name, proof.candidates, x, y, threat_model)
        seconds = time.perf_counter() - started
        forward = self.model.forward_passes - before
        verdicts = []
        for k, (verdict, passes) in enumerate(
            zip(chunk, _shares(forward, len(chunk)), strict=True)
        ):
            charged = replace(
                verdict, forward_passes=verdict.forward_passes + passes,
                seconds=verdict.seconds + seconds / len(chunk),
            )  # fmt: skip
            if k in hits:
                charged = self._broken(charged, hits[k], threat_model)
            elif proved[k] >= threat_model.eps:
                charged = replace(
                    charged, status=Status.CERTIFIED, certified_radius=proved[k],
                    certifier=prepared.label(threat_model.norm), reason="",
                )  # fmt: skip
            else:
                charged = self._hand_on(charged, prepared)
                exhaustive = prepared.certifier.cost is Cost.EXHAUSTIVE
                if exhaustive and charged.status is Status.UNDECIDED:
                    reason = f"{charged.reason}, and {prepared.certifier.name} came to no end"
                    charged = replace(charged, reason=reason)
            verdicts.append(charged)
        decided = sum(v.status is not Status.UNDECIDED for v in verdicts)
        cost = StageCost(
            threat_model.eps, prepared.certifier.name, len(chunk), decided, forward, 0, seconds
        )
        return verdicts, cost

    def _ask(
        self, prepared: Prepared, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        proof = prepared.prove(x, logits, y, threat_model)
        self.model.forward_passes += proof.forward_passes
        return proof

    def _attack(
        self, attack: Attack, threat_model: ThreatModel, chunk: list[Verdict]
    ) -> tuple[list[Verdict], StageCost]:
        started = time.perf_counter()
        forwards, backwards = self.model.forward_passes, self.model.backward_passes
        x, y = self._tensors([verdict.example_id for verdict in chunk])
        hits: dict[int, tuple[str, float, bytes]] = {}
        failure = ""
        try:
            found = attack.search(
                self.model, x, y, threat_model, seed=self._seed_for(attack),
                batch_size=self.chunk_size, n_classes=self.n_classes,
                rival_radii=(
                    self._rival_radii(chunk, x, y, threat_model) if attack.by_rival else None
                ),
            )  # fmt: skip
            hits = self._judge(attack.name, found, x, y, threat_model)
            self.completed.add(attack.name)
        # Attacks run somebody's model inside somebody's library: a failure is recorded.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failure = f"{attack.name} failed: {type(error).__name__}: {error}"
            log.warning("%s", failure)
            self.failed.add(attack.name)
        seconds = time.perf_counter() - started
        forward, backward = (
            self.model.forward_passes - forwards,
            self.model.backward_passes - backwards,
        )
        cost = StageCost(
            threat_model.eps, attack.name, len(chunk), len(hits), forward, backward, seconds
        )
        shares = zip(_shares(forward, len(chunk)), _shares(backward, len(chunk)), strict=True)
        verdicts = [
            self._after_attack(
                replace(
                    verdict,
                    forward_passes=verdict.forward_passes + n_forward,
                    backward_passes=verdict.backward_passes + n_backward,
                    seconds=verdict.seconds + seconds / len(chunk),
                ),
                hits.get(k), failure, attack, threat_model,
            )
            for k, (verdict, (n_forward, n_backward)) in enumerate(zip(chunk, shares, strict=True))
        ]  # fmt: skip
        return verdicts, cost

    def _judge(
        self, name: str, found: Tensor, x: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> dict[int, tuple[str, float, bytes]]:
        """Return (name, distance, bytes of x_adv) of the candidates that fool the model."""
        judged = judge(self.model, found, x, y, threat_model)
        hits = {}
        for k in judged.fooled.nonzero().flatten().tolist():
            x_adv = judged.x_adv[k].cpu().contiguous().numpy().tobytes()
            hits[k] = (name, float(judged.distance[k]), x_adv)
        return hits

    def _rival_radii(
        self, chunk: list[Verdict], x: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Tensor | None:
        """Return the radii inside which each class cannot overtake the label, (n, classes).

        What costs little is asked again. An audit asks whether the certificates are right: there
        they rule nothing out.
        """
        cheap = [c for c in self.certifiers if c.certifier.cost in (Cost.NOTHING, Cost.LOW)]
        if not cheap:
            return None
        with torch.no_grad():
            logits = self.model(x)
        of_each = [self._ask(c, x, logits, y, threat_model).rival_radii for c in cheap]
        audited = torch.tensor([verdict.status is Status.CERTIFIED for verdict in chunk])
        return torch.stack(of_each).amax(dim=0).masked_fill(audited[:, None], 0.0)

    def _after_attack(
        self, verdict: Verdict, hit: tuple[str, float, bytes] | None, failure: str,
        attack: Attack, threat_model: ThreatModel,
    ) -> Verdict:  # fmt: skip
        if hit is not None:
            return self._broken(verdict, hit, threat_model)
        if failure:
            # Failures so far stand behind the name of the attack whose turn it was.
            verdict = replace(verdict, reason=f"{verdict.reason}; {failure}")
        return self._hand_on(verdict, attack)

    def _broken(
        self, verdict: Verdict, hit: tuple[str, float, bytes], threat_model: ThreatModel
    ) -> Verdict:
        attack, reached, x_adv = hit
        if verdict.certified_radius >= reached:
            x, _ = self._tensors([verdict.example_id])
            keep_violation(
                self.store, self.key, verdict, threat_model, attack=attack, reached=reached,
                x=x[0], x_adv=x_adv,
            )  # fmt: skip
        return replace(
            verdict, status=Status.BROKEN, attack=attack, adversarial_distance=reached,
            x_adv=x_adv, reason="",
        )  # fmt: skip

    def _hand_on(self, verdict: Verdict, tool: Attack | Prepared) -> Verdict:
        after = self.tools[self.tools.index(tool) + 1 :]
        later = [Tool(_name(other), isinstance(other, Prepared)) for other in after]
        signs = self.signs[verdict.eps]
        ran = [attack.name for attack in self.attacks if signs or not attack.only_on_signs]
        return hand_on(verdict, later, ran)

    def _first_logits(self) -> Tensor:
        logits = first_logits(self.model, self._sample(), int(self.dataset.y.max()))
        if are_probabilities(logits):
            self.flags.append("softmax_outputs")
            log.warning("the outputs are probabilities; gradients vanish: return logits instead")
        return logits

    def _sample(self) -> Tensor:
        """Return the first inputs, as few as any memory holds."""
        size = 4 if self.batch_size == "auto" else min(4, self.batch_size)
        return self.dataset.x[:size].to(self.device)

    def _describe(self, model: nn.Module, norm: Norm) -> dict[str, Any]:
        identity = self.identity
        try:
            bound: float | None = lipschitz_bound(model)
        except CertificateError:
            bound = None
        return {
            "model": identity.name,
            "family": identity.family,
            "plugin_version": identity.plugin_version,
            "weights_sha256": identity.weights_sha256,
            "state_sha256": identity.state_sha256,
            "code_sha256": identity.code_sha256,
            "parameters": sum(p.numel() for p in model.parameters()),
            "lipschitz_bound": bound,
            "dataset": self.dataset.name,
            "data_sha256": self.dataset.sha256,
            "norm": norm,
            "attacks": [attack.name for attack in self.attacks if not attack.only_on_signs],
            "attacks_on_signs": [attack.name for attack in self.attacks if attack.only_on_signs],
            "certifiers": [prepared.label(norm) for prepared in self.certifiers],
            "seed": self.seed,
            "batch_size": self.batch_size,
            "audit_share": self.audit_share,
            "device": self.device.type,
            "torch_version": torch.__version__,
            "attack_versions": [version("torchattacks"), version("pyautoattack")],
            "cascade_version": _CASCADE_VERSION,
            "flags": self.flags,
        }

    def _in_chunks(
        self, items: list[_Item], work: Callable[[list[_Item]], tuple[list[Verdict], StageCost]],
        *, at_once: int | None = None,
    ) -> Iterator[None]:  # fmt: skip
        """Do the work chunk by chunk and keep its verdicts; where memory runs out, halve them.

        at_once: the most items of a chunk, besides.
        """
        start = 0
        if items and not self.chunk_size:
            self.chunk_size = choose_batch_size(self.model.model, self._sample())
            log.info("batches of %d", self.chunk_size)
        while start < len(items):
            chunk = items[start : start + min(self.chunk_size, at_once or self.chunk_size)]
            try:
                verdicts, cost = work(chunk)
            except Exception as error:
                if not is_out_of_memory(error) or self.chunk_size == 1:
                    raise
                self.chunk_size = max(1, self.chunk_size // 2)
                log.warning("out of memory: batches of %d from here on", self.chunk_size)
                continue
            self._keep(verdicts, cost)
            start += len(chunk)
            yield

    def _keep(self, verdicts: Iterable[Verdict], cost: StageCost | None = None) -> None:
        new = {verdict.example_id: verdict for verdict in verdicts}
        if new:
            self.store.add_verdicts(self.key, new.values(), cost)
            self.verdicts |= new

    def _tensors(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([self.row_of[example_id] for example_id in ids])
        return self.dataset.x[rows].to(self.device), self.dataset.y[rows].to(self.device)

    def _seed_for(self, attack: Attack) -> int:
        text = f"{self.seed} {attack.name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _report(self, threat_model: ThreatModel, stage: str) -> None:
        if self.progress is None:
            return
        verdicts = self.verdicts.values()
        done = sum(v.status is not Status.UNDECIDED or not next_tool(v) for v in verdicts)
        self.progress(
            Progress(threat_model.eps, stage, done, len(self.row_of), count_statuses(verdicts))
        )


def _shares(total: int, n: int) -> list[int]:
    """Split a count into n whole shares that add up to it."""
    return [total // n + (k < total % n) for k in range(n)]


def _name(tool: Attack | Prepared) -> str:
    return tool.certifier.name if isinstance(tool, Prepared) else tool.name
