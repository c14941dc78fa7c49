import zipfile

import pytest

from mixer_jax.demo.furniture import catalog
from mixer_jax.runtime.errors import UserError


@pytest.fixture
def written(tmp_path, catalog_writer):
    """Writes a catalog of one product with the given fields."""

    def write(**fields):
        path = tmp_path / "Big Shop.sh3f"
        catalog_writer(path, {"bed1": {"name": "Bed"} | fields})
        return path

    return write


def test_product_has_the_fields_of_the_catalog(written):
    path = written(
        name="Bill 10\\u20ac / 90\xb0",
        category="Living room",
        modelRotation="0 0 1 -1 0 0 0 -1 0",
        unknownField="?",
    )
    (product,) = catalog.read(path).products
    assert product == catalog.Product(
        key="big-shop/bed1",
        title="Bill 10€ / 90°",
        group="Living room",
        creator="Ann",
        archive=path,
        picture="Big Shop/bed1.png",
        model="Big Shop/bed1/bed1.obj",
        rotation=(0, 0, 1, -1, 0, 0, 0, -1, 0),
        size=(40, 60.5, 20),
    )


def test_optional_fields_have_defaults(written):
    (product,) = catalog.read(written(creator="")).products
    assert product.creator == "unknown"
    assert product.rotation == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_key_has_two_valid_file_names(written):
    (product,) = catalog.read(written(id="A & B#../x y")).products
    assert product.key == "a-b/-x-y"


def test_catalog_has_its_name_license_and_terms(written):
    found = catalog.read(written())
    assert found.name == "Big Shop catalog"
    assert found.license == "License of Big Shop"
    assert found.terms == "LICENSE\n\nThe terms of Big Shop."


def test_products_are_in_the_order_of_their_numbers(tmp_path, catalog_writer):
    path = tmp_path / "Shop.sh3f"
    catalog_writer(path, {f"p{k}": f"Title {k}" for k in range(12)})
    titles = [product.title for product in catalog.read(path).products]
    assert titles == [f"Title {k}" for k in range(12)]


def test_contents_are_the_files_of_one_model(tmp_path, catalog_writer):
    path = tmp_path / "Shop.sh3f"
    catalog_writer(path, {"bed": "Bed", "bed2": "Bed"})
    product = catalog.read(path).products[0]
    assert set(catalog.contents(product)) == {"bed.obj", "bed.mtl"}
    assert catalog.picture(product)[1:4] == b"PNG"
    with zipfile.ZipFile(path) as archive:
        sums = {info.filename: info.CRC for info in archive.infolist()}
    assert catalog.checksums(path) == sums


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "product 1: the field name is missing"),
        ({"width": "wide"}, "width, height and depth: could not convert"),
        ({"modelRotation": "1 0"}, "modelRotation: 2 numbers instead of 9"),
        ({"icon": "/no.png"}, "the catalog has no file no.png"),
    ],
)
def test_invalid_product_is_named(written, fields, message):
    with pytest.raises(UserError, match=rf"Big Shop\.sh3f.*{message}"):
        catalog.read(written(**fields))


def test_damaged_catalog_is_named(written, tmp_path, catalog_writer):
    path = written()
    (product,) = catalog.read(path).products
    path.write_bytes(path.read_bytes()[:100])
    for read in (
        lambda: catalog.read(path),
        lambda: catalog.picture(product),
        lambda: catalog.contents(product),
    ):
        with pytest.raises(UserError, match=r"Big Shop\.sh3f cannot be read"):
            read()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(UserError, match="is not a furniture catalog"):
        catalog.read(path)
    catalog_writer(path, {})
    with pytest.raises(UserError, match="has no products"):
        catalog.read(path)
