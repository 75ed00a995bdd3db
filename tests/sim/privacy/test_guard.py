"""What leaves a client, and what the server makes of it, on vectors by hand."""

import numpy as np
import pytest
import torch

from flexray.algorithms.scaffold import Scaffold
from flexray.sim.privacy import clipping, opening
from flexray.sim.privacy.change import base, generator, split
from flexray.sim.privacy.guard import CLIP, PROTOCOL, RESIDUAL, Guard, methods_own, remembering
from flexray.state import ClientState, ServerState, Update

P = 14
"""Numbers of the bare job's adapter: 2·3 + 4·2."""
SENT = np.linspace(-1, 1, P).astype(np.float32)
WHOLE = ({"lora": 56}, {"lora": 56})
"""What its update costs bare: 14 numbers of four bytes."""


@pytest.fixture
def guarded(bare_job):
    def make(dp=None, secure=None, compress=None, rows=(4, 4, 4), **more) -> Guard:
        privacy = {"dp": dp or {}, "secure_aggregation": secure or {}}
        return Guard(bare_job(list(rows), privacy=privacy, compress=compress or {}, **more))

    return make


def state(guard: Guard) -> ServerState:
    return ServerState(Update(guard.up.unpack(SENT).weights))


def moved(*lengths: float) -> np.ndarray:
    """Updates whose change has these norms, along the first number."""
    vectors = np.tile(SENT, (len(lengths), 1))
    vectors[:, 0] += lengths
    return vectors


def after(guard: Guard, vectors: np.ndarray, round: int = 0) -> ServerState:
    """A whole round of clients 0, 1, …, all in one group."""
    group = range(len(vectors))
    left, _ = guard.leave(vectors, SENT, group, round, None)
    total = np.empty(guard.numbers, guard.kind)
    rows = [len(guard.job.trainees[c].train) for c in group]
    guard.add(total, left, group, [n / sum(rows) for n in rows], round, first=True)
    return opening.served(guard.job, state(guard), total, group, round)


def first(s: ServerState) -> np.ndarray:
    return s.sent.weights["lora/model.q/a"].numpy().ravel() - SENT[:6]


def test_where_nothing_is_asked_for_updates_pass_as_they_are(guarded):
    guard, vectors = guarded(), moved(1, 2)
    assert guard.leave(vectors, SENT, (0, 1), 0, None)[0] is vectors
    assert (guard.on, guard.numbers, guard.kind, guard.cost(0, 0, WHOLE)) == (False, P, np.float32, WHOLE)
    own = ClientState({"x": torch.ones(2)})
    assert methods_own(own) is own and guard.start(own, 1) is own


def test_changes_are_clipped_and_count_alike_whatever_their_rows(guarded):
    guard = guarded({"where": "central", "clip": 2.0, "noise_multiplier": 0}, rows=(1, 5, 30))
    # norms 1, 3, 8 become 1, 2, 2; each counts a third
    assert first(after(guard, moved(1, 3, 8)))[0] == pytest.approx(5 / 3, rel=1e-5)


def test_the_denominator_is_the_cohort_that_was_expected(guarded):
    guard = guarded({"where": "central", "clip": 2.0, "noise_multiplier": 0}, rows=[4] * 8, cohort=4)
    assert first(after(guard, moved(1, 1)))[0] == pytest.approx(2 / 4, rel=1e-5)


def test_central_noise_is_added_once_to_the_sum(guarded):
    guard = guarded({"where": "central", "clip": 2.0, "noise_multiplier": 3.0})
    z = generator(0, 5, clipping.SERVER).standard_normal(P, np.float32)
    # σ = 3·2 on the sum, a third of it in the mean
    assert first(after(guard, moved(1, 1, 1), 5)) == pytest.approx(np.eye(6)[0] + z[:6] * 6 / 3, rel=1e-4, abs=1e-5)


def test_nobody_came_and_the_noise_does_not_tell(guarded):
    guard = guarded({"where": "central", "noise_multiplier": 1.0}, rows=[4] * 4, cohort=2)
    assert first(opening.served(guard.job, state(guard), None, (), 0)).any()
    local = guarded({"where": "local", "noise_multiplier": 1.0}, rows=[4] * 4, cohort=2)
    same = state(local)
    assert opening.served(local.job, same, None, (), 0) is same


def test_local_noise_is_each_clients_own_before_any_sum(guarded):
    guard = guarded({"where": "local", "clip": 2.0, "noise_multiplier": 3.0})
    (left, _), alone = guard.leave(moved(1, 9), SENT, (2, 0), 4, None), guard.leave(moved(9), SENT, (0,), 4, None)[0]
    assert left[1].tobytes() == alone[0].tobytes(), "whoever sits beside it"
    z = generator(0, 2, 4, clipping.CLIENT).standard_normal(P, np.float32)
    assert left[0] == pytest.approx(np.eye(P)[0] + 6 * z, rel=1e-5, abs=1e-5)
    # and none more at the server: the mean is that of what was sent
    total = left.sum(0)
    assert first(opening.served(guard.job, state(guard), total.copy(), (0, 2), 4)) == pytest.approx(
        total[:6] / 3, rel=1e-4, abs=1e-5
    )


def test_the_clip_follows_the_norms(guarded):
    dp = {"where": "central", "clip": 2.0, "noise_multiplier": 0, "adaptive": {"quantile": 0.5, "clip_norm_lr": 0.2}}
    guard = guarded(dp)
    assert guard.numbers == P + 1
    left, _ = guard.leave(moved(1, 3, 8), SENT, (0, 1, 2), 0, None)
    assert left[:, -1].tolist() == [0.5, -0.5, -0.5]
    s = after(guard, moved(1, 3, 8))
    # a third is below it, a half should be: C ← 2·e^(0.2·(1/2 − 1/3))
    assert float(s.kept[opening.CLIP]) == pytest.approx(2 * np.exp(0.2 / 6), rel=1e-6)
    # the next round's changes are clipped to what is sent
    vector = opening.sent(SENT, s)
    left, _ = guard.leave(moved(8), vector, (0,), 1, None)
    assert np.linalg.norm(left[0, :P]) == pytest.approx(float(s.kept[opening.CLIP]), rel=1e-5)
    assert guard.cost(0, 1, WHOLE) == ({"lora": 56, CLIP: 4}, {"lora": 56, CLIP: 4})


def test_the_count_is_noised_too(guarded):
    adaptive = {"quantile": 0.5, "count_stddev": 2.0}
    guard = guarded({"where": "central", "clip": 2.0, "noise_multiplier": 1.0, "adaptive": adaptive})
    rng = generator(0, 0, clipping.SERVER)
    rng.standard_normal(P, np.float32)
    below = 0.5 + (-0.5 + 2.0 * rng.standard_normal()) / 3
    assert float(after(guard, moved(1, 3, 8)).kept[opening.CLIP]) == pytest.approx(2 * np.exp(-0.2 * (below - 0.5)), rel=1e-6)


def test_aux_has_a_clip_and_noise_of_its_own(guarded):
    dp = {"where": "central", "clip": 1.0, "aux_clip": 0.5, "noise_multiplier": 0}
    guard = guarded(dp, algorithm={"name": "scaffold"})
    assert isinstance(guard.job.algorithm, Scaffold) and split(guard.up) == P
    sent = np.concatenate([SENT, np.full(P, 7, np.float32)])
    assert base(guard.up, guard.down, sent)[P:].tolist() == [0] * P, "aux is a change already"
    vector = sent.copy()
    vector[0] += 4
    vector[P:] = 0
    vector[P] = 3
    left, _ = guard.leave(vector[None], sent, (0,), 0, None)
    # 4 becomes 1, and 3 a half
    assert left[0, [0, P]] == pytest.approx([1.0, 0.5], rel=1e-5)


def test_masked_rounds_give_the_plain_mean(guarded):
    plain, vectors = guarded(rows=(1, 5, 30)), moved(1, 3, 8)
    expected = SENT[0] + (1 * 1 + 3 * 5 + 8 * 30) / 36
    guard = guarded(secure={"protocol": "secagg"}, rows=(1, 5, 30))
    assert guard.kind is np.uint64
    assert after(guard, vectors).sent.weights["lora/model.q/a"][0, 0].item() == pytest.approx(expected, rel=1e-6)
    assert plain.masks is None


def test_who_is_lost_does_not_count(guarded):
    guard = guarded(secure={"protocol": "secagg", "dropout": 0.4}, rows=(1, 5, 30))
    masks = guard.masks(0)
    (lost,) = masks.lost
    rows, lengths = (1, 5, 30), (1, 3, 8)
    left = [c for c in range(3) if c != lost]
    expected = sum(rows[c] * lengths[c] for c in left) / sum(rows[c] for c in left)
    assert first(after(guard, moved(*lengths)))[0] == pytest.approx(expected, rel=1e-5)
    assert guard.cost(lost, 0, WHOLE)[0] == {PROTOCOL: 64 + 2 * 100}
    assert guard.cost(left[0], 0, WHOLE)[0] == {"lora": 112, PROTOCOL: 64 + 2 * 100 + 2 * 32}


def test_what_top_k_leaves_out_is_remembered_to_the_number(guarded):
    """The sum of what was sent and of what is remembered is the sum of all changes."""
    guard = guarded(compress={"kind": "topk", "keep": 0.3})
    rng, rest, sent_in_all, changed = np.random.default_rng(0), torch.zeros(1, P), np.zeros(P), np.zeros(P)
    for round in range(5):
        change = rng.standard_normal(P).astype(np.float32)
        left, rest = guard.leave((SENT + change)[None], SENT, (0,), round, rest)
        sent_in_all, changed = sent_in_all + left[0] - SENT, changed + change
        # ⌈0.3·6⌉ = 2 and ⌈0.3·8⌉ = 3
        assert np.count_nonzero(left[0] - SENT) == 5
    assert sent_in_all + rest[0].numpy() == pytest.approx(changed, abs=1e-5)


def test_without_feedback_nothing_is_remembered(guarded):
    guard, own = guarded(compress={"kind": "topk", "feedback": False}), ClientState()
    assert guard.start(own, 2) is own
    assert guard.leave(moved(1), SENT, (0,), 0, None)[1] is None
    with_feedback = guarded(compress={"kind": "topk"}).start(own, 2)
    assert with_feedback.memory[RESIDUAL].shape == (2, P)
    assert methods_own(with_feedback).memory == {} and remembering(own, None) is own


def test_after_rounding_and_feedback_the_servers_noise_still_hides_a_client(guarded):
    guard = guarded({"where": "central", "clip": 1.0}, compress={"kind": "topk", "keep": 0.5})
    left, rest = guard.leave(moved(5), SENT, (0,), 0, torch.full((1, P), 3.0))
    assert np.linalg.norm(left[0]) <= 1.0
    # what was held back by the last clip is remembered too: 3 everywhere, and the clipped change
    assert (rest[0].numpy() + left[0]) == pytest.approx(3 + np.eye(P)[0], rel=1e-4)


def test_compressed_updates_are_the_ones_that_were_changed_by_so_little(guarded):
    guard = guarded(compress={"kind": "fp16"})
    vectors = moved(0.1)
    left, _ = guard.leave(vectors, SENT, (0,), 0, None)
    change = (vectors[0] - SENT).astype(np.float16).astype(np.float32)
    assert left[0].tobytes() == (change + SENT).tobytes()
    assert guard.cost(0, 0, WHOLE) == ({"lora": 28}, {"lora": 56})


def test_rounds_tell_what_was_spent(guarded):
    guard = guarded({"where": "central", "noise_multiplier": 2.0})
    told = [opening.told(guard.job, r, state(guard)) for r in range(2)]
    assert told[0]["clip"] == 1.0 and 0 < told[0]["epsilon"] < told[1]["epsilon"]
    assert opening.told(guarded().job, 0, state(guard)) == {}
    assert opening.summary(guarded().job, 2) == {}
    assert opening.summary(guard.job, 2)["dp"]["epsilon"] == told[1]["epsilon"]
    assert opening.summary(guarded({"where": "central", "noise_multiplier": 0}).job, 2)["dp"]["epsilon"] is None


def test_local_counts_the_client_who_sent_most_often(guarded):
    from flexray.sim.privacy.accountant import epsilon

    guard = guarded({"where": "local", "noise_multiplier": 2.0}, rows=[4] * 6, cohort=2)
    times = max(sum(c in guard.job.taking_part(r) for r in range(9)) for c in range(6))
    assert opening.spent(guard.job, 8) == epsilon(guard.dp, 6, 2, times)
