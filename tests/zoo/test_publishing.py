"""What a model card claims."""

import pytest

from mmcert.zoo.publishing import ModelInfo, model_card

INFO = ModelInfo('unet', 'configs/unet.py', 'CamVid', 'ab12')


def summary(**certificate):
    known = {
        'kind': 'certificate', 'alpha': 0.001, 'tau': 0.75, 'procedure': 'holm', 'k': 1,
        'input_type': 'image', 'description': 'no perturbation changes a class',
        'certified_space': 'the original image', 'model': {'weights': 'ab12'},
    }  # fmt: skip
    rates = {'certAcc': 0.7, 'mIoU': 0.3, 'abstain': 0.1, 'base_aAcc': 0.8, 'radius': 0.17}
    return {
        'certificate': {k: v for k, v in (known | certificate).items() if v is not None},
        'rates': rates,
        'images': 50,
        'draws': {'mean': 110.0},
    }


@pytest.mark.parametrize(
    ('certificate', 'claim'),
    [
        ({}, 'With probability 0.999 per image, no perturbation changes a class (the original'),
        ({'k': 5}, 'With probability 0.999 per image, for all but fewer than 5 certificates, no'),
        ({'kind': 'exact'}, 'Verified by enumeration: no perturbation'),
        ({'kind': 'estimate'}, 'An estimate, without proof: no perturbation'),
        # The inputs of a run may differ in kind: then the shared certificate has none.
        ({'kind': None}, 'An estimate, without proof: no perturbation'),
        ({'description': None}, 'the attack that the certificate of each image states changes no'),
        ({'denoiser': {'file': 'd.pth'}}, 'smoothed function begins with the denoiser d.pth)'),
        (
            {'model': {'weights': 'ab12', 'base_model': 'the mean of the logits of 3 segmentors'}},
            'the base model is the mean of the logits of 3 segmentors)',
        ),
    ],
)  # fmt: skip
def test_a_card_claims_what_the_certificates_do(certificate, claim):
    assert claim in model_card(INFO, 'unet-12345678.pth', '12345678', [summary(**certificate)])


def test_a_card_tells_each_run_in_a_row():
    card = model_card(INFO, 'unet.pth', '12', [summary(), summary(tau=0.95)])
    rows = [line for line in card.splitlines() if line.startswith('| 50 |')]
    assert rows[0] == '| 50 | holm | 0.75 | 0.001 | 110 | 0.17 | 0.7 | 0.3 | 0.1 | 0.8 | - |'
    assert len(rows) == 2
    assert card.count('With probability') == 1
