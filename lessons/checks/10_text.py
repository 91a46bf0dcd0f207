"""Check of exercise 10."""

import numpy as np

COUNTS = {
    "all captions different": [1, 1, 1, 1, 1],
    "two captions, half of the clips each": [4, 4],
    "groups of 1, 2 and 3": [1, 2, 3],
    "forty clips": [7, 20, 5, 8],
}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.cost_of_wrong_words`."""
    rng = np.random.default_rng(0)
    for name, counts in COUNTS.items():
        ids = np.repeat([[3, word + 4, 0] for word in range(len(counts))], counts, axis=0)
        ids = rng.permutation(ids)
        clips = np.arange(len(ids)) * 10.0
        seen = []

        def loss(clips, ids, seen=seen):
            seen.append((np.array(clips), np.array(ids)))
            return 1.0 + np.mean(clips // 10 % 2 * ids[:, 1])  # notes which clip has which words

        before = clips.copy(), ids.copy()
        got = exercise.cost_of_wrong_words(loss, clips, ids)
        assert np.array_equal(before[0], clips) and np.array_equal(before[1], ids), (
            f"{name}: clips or ids were changed in place")
        assert all(np.array_equal(c, clips) for c, _ in seen), (
            f"{name}: expected the clips as they are in every call of loss, got others: "
            "reorder the captions only")
        right = [given for _, given in seen if np.array_equal(given, ids)]
        wrong = [given for _, given in seen if not np.array_equal(given, ids)]
        assert len(right) == 1 and len(wrong) == 1, (
            f"{name}: expected one call of loss with the right captions and one with wrong ones, "
            f"got {len(right)} and {len(wrong)}")
        assert sorted(wrong[0].tolist()) == sorted(ids.tolist()), (
            f"{name}: expected the same captions in another order, got {wrong[0].tolist()}")
        kept = int((wrong[0] == ids).all(axis=1).sum())
        assert kept == 0, f"{name}: expected no clip with its own words, got {kept} of {len(ids)}"
        expected = loss(clips, wrong[0]) / loss(clips, ids)
        assert np.isclose(got, expected), (
            f"{name}: expected wrong over right, {expected:.3f}, got {got:.3f}")
