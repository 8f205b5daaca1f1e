"""What an entry of the model index must look like."""

import re

from mmcert.zoo.publishing import COLUMNS

FIELDS = {'Name', 'In Collection', 'Config', 'Weights', 'Metadata', 'Results'}


def check_entry(entry):
    """Known fields only; weights under their hash on the web; results under the card's names."""
    assert FIELDS >= set(entry) >= {'Name', 'In Collection', 'Config', 'Metadata'}
    assert entry['Metadata']['Training Data']
    if 'Weights' in entry:
        found = re.fullmatch(r'https://.+-([0-9a-f]{8})\.pth', entry['Weights'])
        assert entry['Metadata']['SHA256'].startswith(found[1])
    for result in entry.get('Results', ()):
        assert set(result) == {'Task', 'Dataset', 'Metrics'}
        assert set(result['Metrics']) <= set(COLUMNS.values())
