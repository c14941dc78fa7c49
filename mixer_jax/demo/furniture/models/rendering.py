"""Renders 3-D models with VTK, off screen and without a GPU."""

import importlib
import importlib.util
import math
from typing import Any

import numpy as np

from mixer_jax.demo.furniture.models import poses
from mixer_jax.demo.furniture.models.geometry import Mesh
from mixer_jax.demo.furniture.models.loading import Part
from mixer_jax.demo.furniture.shots import Shot
from mixer_jax.runtime.errors import UserError

_ANGLE = 25.0  # field of view in degrees
_PEELS = 8  # transparent layers behind each other
_AMBIENT = 0.3  # share of light without a direction
_SPECULAR = 0.3  # maximum strength of highlights
_CREASE = 40.0  # angle in degrees between faces that form an edge


def check() -> None:
    """Raises a `UserError` if VTK is not installed."""
    if importlib.util.find_spec("vtkmodules") is None:
        raise UserError(
            "The furniture is rendered by the package vtk, which is not "
            'installed; run `pip install "mixer_jax[furniture]"`.'
        )


class Scene:
    """A product in front of a camera, on a transparent background.

    The product's front faces the positive z axis, and its top the positive y
    axis.
    """

    def __init__(self, parts: list[Part], pixels: int):
        """Takes an upright model.

        Args:
          parts: the parts of the model; see `poses.upright`.
          pixels: R, the side of the renderings.
        """
        core = _vtk("RenderingCore")
        _vtk("RenderingOpenGL2")  # makes the core render
        _vtk("CommonCore").vtkObject.GlobalWarningDisplayOff()
        self._core, self._renderer = core, core.vtkRenderer()
        self._window = _window(core, self._renderer, pixels)
        for part in parts:
            self._renderer.AddActor(_actor(core, part))
        self._radius = poses.radius(parts)

    def render(self, shot: Shot) -> np.ndarray:
        """Returns the view of a shot, RGBA, uint8 [R, R, 4].

        Colors are not premultiplied, and alpha is 0 in the background.
        """
        self._light(shot)
        camera = self._renderer.GetActiveCamera()
        distance = self._radius / math.sin(math.radians(_ANGLE) / 2)
        direction = _direction(shot.azimuth, shot.elevation)
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(*(distance * part for part in direction))
        camera.SetViewUp(0, 1, 0)
        camera.SetViewAngle(_ANGLE)
        self._renderer.ResetCameraClippingRange()
        self._window.Render()
        return self._pixels()

    def close(self) -> None:
        """Frees the window's memory."""
        self._window.Finalize()

    def _light(self, shot: Shot) -> None:
        self._renderer.RemoveAllLights()
        fill = self._core.vtkLight()
        fill.SetLightTypeToHeadlight()
        fill.SetIntensity(shot.fill)
        self._renderer.AddLight(fill)
        key = self._core.vtkLight()
        key.SetLightTypeToSceneLight()
        key.SetColor(*shot.light)
        key.SetIntensity(1 - 0.5 * shot.fill)
        key.SetFocalPoint(0, 0, 0)
        key.SetPosition(*_direction(shot.light_azimuth, shot.light_elevation))
        self._renderer.AddLight(key)

    def _pixels(self) -> np.ndarray:
        grab = self._core.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.SetInputBufferTypeToRGBA()
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        array = _vtk("util.numpy_support").vtk_to_numpy(
            image.GetPointData().GetScalars()
        )
        # VTK's first row is the lowest one.
        rows = array.reshape(height, width, 4)[::-1].astype(np.float32)
        alpha = rows[..., 3:]
        # The background is black, so the colors are premultiplied.
        colors = rows[..., :3] * 255 / np.maximum(alpha, 1)
        return np.concatenate(
            [np.minimum(colors + 0.5, 255), alpha], axis=-1
        ).astype(np.uint8)


def _vtk(name: str) -> Any:
    """Imports a module of VTK; it is not imported at the top level."""
    prefix = "" if "." in name else "vtk"
    return importlib.import_module(f"vtkmodules.{prefix}{name}")


def _window(core: Any, renderer: Any, pixels: int) -> Any:
    renderer.SetBackground(0, 0, 0)
    renderer.SetBackgroundAlpha(0)
    renderer.AutomaticLightCreationOff()
    renderer.UseDepthPeelingOn()
    renderer.SetMaximumNumberOfPeels(_PEELS)
    window = core.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetShowWindow(False)
    window.SetAlphaBitPlanes(1)
    window.SetMultiSamples(0)
    window.SetSize(pixels, pixels)
    window.AddRenderer(renderer)
    return window


def _actor(core: Any, part: Part) -> Any:
    """Returns the VTK actor of a part."""
    mapper = core.vtkPolyDataMapper()
    mapper.SetInputData(_triangles(part.mesh))
    mapper.ScalarVisibilityOff()
    actor = core.vtkActor()
    actor.SetMapper(mapper)
    material, paint = part.material, actor.GetProperty()
    textured = material.texture is not None and (
        part.mesh.coordinates is not None
    )
    # Sweet Home 3D does not multiply textures by the color.
    paint.SetColor(*((1, 1, 1) if textured else material.color))
    paint.SetOpacity(material.opacity)
    paint.SetAmbient(_AMBIENT)
    paint.SetDiffuse(1 - 0.5 * _AMBIENT)
    paint.SetSpecular(min(max(material.specular, 0), _SPECULAR))
    paint.SetSpecularColor(1, 1, 1)
    paint.SetSpecularPower(min(max(material.shininess, 1), 128))
    if textured:
        actor.SetTexture(_texture(core, material.texture))
    return actor


def _triangles(mesh: Mesh) -> Any:
    """Returns VTK's data of a mesh, with normals."""
    convert = _vtk("util.numpy_support").numpy_to_vtk
    model, data = _vtk("CommonCore"), _vtk("CommonDataModel")
    points = model.vtkPoints()
    points.SetData(convert(mesh.points, deep=True))
    cells = data.vtkCellArray()
    index = _vtk("util.numpy_support").numpy_to_vtkIdTypeArray
    cells.SetData(
        index(mesh.offsets, deep=True), index(mesh.corners, deep=True)
    )
    solid = data.vtkPolyData()
    solid.SetPoints(points)
    solid.SetPolys(cells)
    if mesh.coordinates is not None:
        solid.GetPointData().SetTCoords(convert(mesh.coordinates, deep=True))
    if mesh.normals is not None:
        solid.GetPointData().SetNormals(convert(mesh.normals, deep=True))
    # Polygons may be concave.
    triangles = _vtk("FiltersCore").vtkTriangleFilter()
    triangles.SetInputData(solid)
    triangles.Update()
    if mesh.normals is not None:
        return triangles.GetOutput()
    normals = _vtk("FiltersCore").vtkPolyDataNormals()
    normals.SetInputData(triangles.GetOutput())
    normals.SetFeatureAngle(_CREASE)
    normals.ConsistencyOff()
    normals.Update()
    return normals.GetOutput()


def _texture(core: Any, pixels: np.ndarray) -> Any:
    convert = _vtk("util.numpy_support").numpy_to_vtk
    opaque = (pixels[..., 3] == 255).all()
    # VTK's first row is the lowest one.
    rows = np.ascontiguousarray(pixels[::-1, :, : 3 if opaque else 4])
    image = _vtk("CommonDataModel").vtkImageData()
    image.SetDimensions(rows.shape[1], rows.shape[0], 1)
    scalars = convert(rows.reshape(-1, rows.shape[2]), deep=True)
    image.GetPointData().SetScalars(scalars)
    texture = core.vtkTexture()
    texture.SetInputData(image)
    texture.RepeatOn()
    texture.InterpolateOn()
    texture.MipmapOn()
    return texture


def _direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Returns the unit vector to a direction, given in degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)
