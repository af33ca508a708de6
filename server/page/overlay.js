// The map of an explanation over a photo: bright is high, and what the network did not see is dark.

const COLOURS = [[20, 20, 120], [110, 20, 140], [200, 40, 80], [245, 130, 30], [255, 240, 60]];
const STRONGEST = 0.65; // opacity of the highest number
const LONGEST = 640; // pixels of what is drawn
const UNSEEN = 0.65; // opacity of the black over what the network did not see

// Replaces the photo, an <img> that has loaded or will, by a <canvas> of the photo with its map.
export async function overlay(image, explanation) {
  try {
    await image.decode(); // turned upright by its EXIF orientation, as the server has turned it
  } catch {
    return; // of a format that only the server reads
  }
  const scale = LONGEST / Math.max(image.naturalWidth, image.naturalHeight);
  const width = Math.max(1, Math.round(scale * image.naturalWidth));
  const height = Math.max(1, Math.round(scale * image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Where in the photo ${explanation.label} was seen`);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  context.fillStyle = `rgb(0 0 0 / ${UNSEEN})`;
  context.fillRect(0, 0, width, height);
  const { left, top, right, bottom } = explanation.area;
  const place = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  context.save();
  context.beginPath();
  context.rect(...place);
  context.clip();
  context.drawImage(image, 0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(heat(explanation), ...place);
  context.restore();
  image.replaceWith(canvas);
}

// A pixel for each number of the grid.
function heat({ rows, columns, values }) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  values.flat().forEach((value, place) => {
    const opacity = STRONGEST * (value / 255) ** 2;
    pixels.data.set([...colour(value), Math.round(255 * opacity)], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function colour(value) {
  const at = (value / 255) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  return COLOURS[low].map((each, channel) => Math.round(each + (at - low) * (COLOURS[low + 1][channel] - each)));
}
