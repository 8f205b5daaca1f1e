"""The whole path against a literal transcription of the method, on the same draws."""

import numpy as np
import torch
from mmseg.registry import DATASETS, MODELS
from scipy import stats

from mmcert.sampling import draw_seed
from mmcert.sampling.draws import ESTIMATION, SELECTION, input_digest
from mmcert.votes import load_votes
from tests.openmmlab import run_test


def predict(model, noisy, sample):
    """One image, one call, mmsegmentation's own preprocessing and decoding."""
    data = {'inputs': [noisy * 255], 'data_samples': [sample]}
    return model.test_step(data)[0].pred_sem_seg.data[0].numpy().astype(int)


def test_votes_and_certificates_equal_a_literal_transcription(make_config, tmp_path):
    n0, n, tau, alpha, sigma, seed = 5, 60, 0.6, 0.01, 0.25, 11
    votes_dir = tmp_path / 'votes'
    cfg = make_config(
        images=1,
        smoothing=dict(n0=n0, n=n, tau=tau, alpha=alpha, seed=seed, votes_dir=str(votes_dir)),
    )
    metrics = run_test(cfg)
    record = load_votes(next(votes_dir.iterdir()))

    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(cfg.load_from)['state_dict'])
    item = DATASETS.build(cfg.test_dataloader.dataset)[0]
    image, label = item['inputs'], item['data_samples'].gt_sem_seg.data[0].numpy()

    def draws(stage, count):
        for j in range(count):
            generator = torch.Generator().manual_seed(
                draw_seed(seed, input_digest(image), stage, j)
            )
            # In levels; a half is rounded up.
            noise = torch.empty(image.shape).normal_(0.5, 255 * sigma, generator=generator)
            noisy = (noise.floor() + image) / 255
            yield predict(model, noisy, item['data_samples'].clone())

    selection = np.stack(list(draws(SELECTION, n0)))
    guess = np.apply_along_axis(lambda v: np.bincount(v, minlength=8).argmax(), 0, selection)
    hits = sum((labels == guess).astype(int) for labels in draws(ESTIMATION, n))
    np.testing.assert_array_equal(record.votes.guess, guess)
    np.testing.assert_array_equal(record.votes.hits, hits)

    p = np.array(
        [stats.binomtest(int(k), n, tau, alternative='greater').pvalue for k in hits.ravel()]
    )
    certified = np.zeros(p.size, dtype=bool)
    for i, index in enumerate(np.argsort(p, kind='stable')):
        if p[index] > alpha / (p.size - i):
            break
        certified[index] = True
    certified = certified.reshape(hits.shape)

    valid = label != 255
    right = certified & (guess == label) & valid
    assert 0 < certified.sum() < certified.size
    assert metrics['certified/certAcc'] == right.sum() / valid.sum()
    assert metrics['certified/abstain'] == (~certified).mean()
