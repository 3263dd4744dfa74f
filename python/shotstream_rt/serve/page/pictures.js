// Pictures that the next cut is to see beside the past: JPEG files of the film's size.

import { $, make } from "./elements.js";

export class Pictures {
  /** `tell(text)` says what cannot be taken. */
  constructor(tell) {
    this.tell = tell;
    this.list = [];   // data: addresses
    this.fit({ width: 0, height: 0, images: 0 });
  }

  /** Be for the film of a `welcome`: its size, and how many pictures a cut may have. */
  fit({ width, height, images }) {
    Object.assign(this, { width, height, most: images });
    this.list.length = Math.min(this.list.length, images);
    this.draw();
  }

  async add(files) {
    for (const file of files) {
      if (this.list.length >= this.most) { this.tell(`A cut sees at most ${this.most} pictures.`); break; }
      let bitmap;
      try { bitmap = await createImageBitmap(file); } catch { this.tell(`${file.name}: not a picture that can be read.`); continue; }
      const { width, height } = this, scale = Math.max(width / bitmap.width, height / bitmap.height);
      const canvas = make("canvas", { width, height }), pen = canvas.getContext("2d");
      pen.imageSmoothingQuality = "high";
      const [w, h] = [bitmap.width * scale, bitmap.height * scale];
      pen.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
      bitmap.close();
      this.list.push(canvas.toDataURL("image/jpeg", .95));
    }
    this.draw();
  }

  /** Give them to a cut, as base64, and have none any more. */
  take() {
    const taken = this.list.splice(0).map((picture) => picture.split(",")[1]);
    this.draw();
    return taken;
  }

  draw() {
    $("pictures").replaceChildren(...this.list.map((picture, at) => make("li", {}, make("button", {
      type: "button", title: "Leave it out", ariaLabel: `Leave picture ${at + 1} out`,
      onclick: () => { this.list.splice(at, 1); this.draw(); $("text").focus(); },
    }, make("img", { src: picture, alt: "" })))));
  }
}
