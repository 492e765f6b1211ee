import pytest
import torch

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone

FILE = "weights/squeezenet1_0-hanlab-deepcompressed.pth"


@pytest.mark.parametrize("name", ["squeezenet1_0", "torchvision/squeezenet1_0"])
def test_a_published_file_loads_without_its_classifier(realdata, name):
    backbone = create_backbone(name, str(realdata / FILE)).eval()
    published = torch.load(realdata / FILE, weights_only=True)
    loaded = backbone.body.state_dict()
    assert published.keys() - loaded.keys() == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(value, published[key]) for key, value in loaded.items())
    maps = backbone(torch.rand(1, 3, 224, 224))
    assert maps.shape == (1, 512, 13, 13)
    assert torch.isfinite(maps).all()


def test_a_published_file_of_another_network_is_refused(realdata):
    with pytest.raises(UserError, match="another network than torchvision/squeezenet1_1"):
        create_backbone("squeezenet1_1", str(realdata / FILE))
