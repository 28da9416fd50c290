"""A run's log: values in a CSV file and in TensorBoard, which also shows images."""

import csv
from pathlib import Path

import cv2
from torch.utils.tensorboard import SummaryWriter

from stylematte.files import writing

HEADER = ("step", "name", "value")


class Log:
    """Writes each value as a CSV row and to TensorBoard.

    Args:
        folder: Run folder, for log.csv and tensorboard/.
        step: Steps done when this run starts or resumes; entries of a killed process after it are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "log.csv"
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(HEADER) and row[0].isdigit()]
        with writing(self.path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *(row for row in rows if int(row[0]) <= step)])

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the values of one step."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, f"{value:.6g}") for name, value in values.items())
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def show(self, name: str, path: Path, step: int) -> None:
        """Add an image file to TensorBoard."""
        image = cv2.imread(str(path))
        if image is not None:
            self.board.add_image(name, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), step, dataformats="HWC")

    def close(self) -> None:
        """Flush TensorBoard."""
        self.board.close()
