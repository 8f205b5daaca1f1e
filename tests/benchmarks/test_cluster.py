"""The simulation of a cluster."""

import pytest


def test_a_simulation_adds_up(load):
    cluster = load('cluster')
    timed = [
        {
            'model': 'hrnet48',
            'size': [1024, 2048],
            'precision': 'fp32',
            'ours_ms_per_draw': 1000 / 110,
        }
    ]
    per_pixel = {'votes_bytes_per_pixel': 1e9 / 2**21 / 500, 'results_bytes_per_pixel': 0}
    files = {'n': 100, 'run_seconds_per_pixel': 0, 'merge_seconds_per_pixel': 0, **per_pixel}
    row = cluster.simulate('Cityscapes val', 'hrnet48', timed, files)
    # A second for each of 500 images, 2 MB of votes written and 2.3 MB read for each of them.
    jobs = {gpus: -(-500 // gpus) for gpus in cluster.GPUS}
    assert row['hours'] == [pytest.approx((60 + images) / 3600) for images in jobs.values()]
    assert row['votes_gb'] == pytest.approx(1)
    assert row['mb_per_second_and_gpu'] == pytest.approx(4.3)
    assert row['gpus_of_the_server'] == pytest.approx(100 / 4.3)
