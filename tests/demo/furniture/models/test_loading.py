import pytest

from mixer_jax.demo.furniture import catalog
from mixer_jax.demo.furniture.models import loading
from mixer_jax.demo.furniture.models.materials import Material


@pytest.fixture
def load(monkeypatch):
    """Loads a model with the given files."""

    def load(**contents):
        files = {k.replace("_", "."): v.encode() for k, v in contents.items()}
        monkeypatch.setattr(loading.catalog, "contents", lambda product: files)
        product = catalog.Product("", "", "", "", None, "", "a/m.obj", (), ())
        return loading.load(product)

    return load


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


def test_parts_have_their_materials(load):
    parts = load(
        m_obj=TRIANGLE + "usemtl 1\nf 1 2 3\nusemtl none\nf 3 2 1\n",
        m_mtl="newmtl 1\nKd 1 0 0\n",
    )
    assert [part.material.color for part in parts] == [
        (1, 0, 0),
        Material().color,
    ]
    assert [part.mesh.corners.tolist() for part in parts] == [
        [0, 1, 2],
        [2, 1, 0],
    ]


def test_material_file_may_be_missing(load):
    (part,) = load(m_obj=TRIANGLE + "f 1 2 3\n")
    assert part.material == Material()


def test_model_of_a_catalog_is_loaded(furniture_package):
    path = furniture_package / "usr/share/Second.sh3f"
    product = catalog.read(path).products[0]
    (part,) = loading.load(product)
    assert len(part.mesh.points) == 8
    assert len(part.mesh.offsets) == 7
    assert part.material.color == (0.224, 0.953, 0.035)


@pytest.mark.parametrize(
    ("obj", "mtl", "message"),
    [
        ("v 0 0 0\n", "", "has no faces"),
        ("f 1 2 3\n", "", "no v 3"),
        (TRIANGLE + "f 1 2 3\n", "newmtl a\nKd red\n", "could not convert"),
        (TRIANGLE + "f 1 2 3\n", "newmtl a\nKd 1 1\n", "Kd has 2 numbers"),
    ],
)
def test_invalid_model_is_unusable(load, obj, mtl, message):
    with pytest.raises(loading.UnusableModelError, match=message):
        load(m_obj=obj, m_mtl=mtl)
