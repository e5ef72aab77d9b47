"""What pyproject.toml cannot say: the wheel, and an editable install too, bring a `.pth` file beside the package."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStartFile(build_py):
    """Puts `evagen_torchvision.pth` beside the package, where Python reads it at every start. What it is for stands in
    `kernels/torchvision_ops.py`."""

    def run(self):
        super().run()
        beside = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.copy_file("kernels/evagen_torchvision.pth", beside)


setup(cmdclass={"build_py": BuildWithStartFile})
