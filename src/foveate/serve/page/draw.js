// The kept tokens over the frames: dropped cells darkened, merged ones tinted, under a thin grid.

/** Draws one frame with its cells on a canvas, `width` pixels wide. `kept`: rows * cols of "1", "m" or "0". */
export function paint(canvas, picture, kept, rows, cols, width) {
  const height = Math.max(1, Math.round((picture.naturalHeight / picture.naturalWidth) * width));
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0, width, height);
  for (let i = 0; i < rows * cols; i++) {
    const x = Math.round(((i % cols) * width) / cols);
    const y = Math.round((Math.floor(i / cols) * height) / rows);
    const w = Math.round((((i % cols) + 1) * width) / cols) - x;
    const h = Math.round(((Math.floor(i / cols) + 1) * height) / rows) - y;
    if (kept[i] === "1") {
      if (width > 200) { pen.strokeStyle = "rgba(255,155,102,.95)"; pen.lineWidth = 2; pen.strokeRect(x + 1, y + 1, w - 2, h - 2); }
      continue;
    }
    pen.fillStyle = kept[i] === "m" ? "rgba(20,60,140,.55)" : "rgba(8,9,11,.82)";
    pen.fillRect(x, y, w, h);
  }
}

/** All frames of all media in one list, with what a reader is told of each. */
export function framesOf(overlay) {
  return overlay.flatMap((item, number) =>
    item.frames.map((url, i) => {
      const [, rows, cols] = item.grid;
      const count = [...item.kept[i]].filter((c) => c === "1").length;
      const when = item.times.length ? `${item.times[i].toFixed(1)} s` : `image ${number + 1}`;
      return { url, kept: item.kept[i], rows, cols, when, told: `${when}: ${count} of ${rows * cols} tokens kept` };
    }),
  );
}

/** A loaded picture of a URL. */
export function load(url) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error("a frame could not be shown"));
    picture.src = url;
  });
}
