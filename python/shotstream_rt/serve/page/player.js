// The picture: fragments of H.264 into a <video>, as near to the newest frame as the browser can.

const MAX_LAG_S = 0.35, CALM_LAG_S = 0.12, KEEP_S = 20, REMOVE_AT_S = 26;
// Places in a fragment, which is one frame: names of boxes, the frame's time and duration in ticks.
const BOX_AT = 4, TIME_AT = 60, DURATION_AT = 88;

const boxOf = (bytes) => String.fromCharCode(...bytes.subarray(BOX_AT, BOX_AT + 4));
const equal = (one, other) => one.length === other.length && one.every((value, at) => value === other[at]);

/** The number of a fragment's frame in the live stream. */
function numberOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Number(view.getBigUint64(TIME_AT)) / view.getUint32(DURATION_AT);
}

export class Player {
  constructor(video, onFrame) {
    this.video = video;
    this.onFrame = onFrame;
    this.reviewing = false;
    this.last = -1;
    const next = (now, meta) => { this.onFrame(now, meta); video.requestVideoFrameCallback(next); };
    video.requestVideoFrameCallback(next);
  }

  open(codec) {
    const Source = window.ManagedMediaSource || window.MediaSource;
    if (!Source) throw new Error("This browser cannot play a live picture (no MediaSource).");
    this.waiting = [];
    this.head = this.buffer = null;
    this.last = -1;
    this.reviewing = false;
    this.codec = codec;
    const source = this.source = new Source();
    source.addEventListener("sourceopen", () => {
      if (source !== this.source) return;
      URL.revokeObjectURL(this.video.src);
      this.buffer = source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
      this.buffer.addEventListener("updateend", () => this.work());
      this.work();
    }, { once: true });
    this.video.src = URL.createObjectURL(source);
  }

  /**
   * Go on with the picture that is there, over a new connection to the same film.
   *
   * What comes then begins at a key frame that is needed to decode the frame behind `last`; what is
   * there already is left out, so the picture neither goes black nor back. Where frames are missing
   * between, a key frame comes first, and the picture goes on with that.
   *
   * `frames` is how many the stream has shown, as `welcome` says. Returns false where the picture
   * cannot go on, and has to be opened: it was not open, it cannot be decoded, or the film went back
   * behind what was seen, as it may when its server crashed.
   */
  goOn(codec, frames) {
    return this.source?.readyState === "open" && !this.video.error && codec === this.codec && frames > this.last;
  }

  push(data) {
    const bytes = new Uint8Array(data);
    if (boxOf(bytes) === "ftyp") {
      if (this.head && equal(this.head, bytes)) return;
      if (this.head) this.open(this.codec); // of another encoder: nothing behind it follows what is there
      this.head = bytes;
    } else {
      const number = numberOf(bytes);
      if (number <= this.last) return;
      this.last = number;
    }
    this.waiting.push(bytes);
    this.work();
  }

  /** Append what waits, or remove what is old, then stay near the newest frame. */
  work() {
    const { buffer, video } = this;
    if (!buffer || buffer.updating) return;
    this.follow();
    const ranges = buffer.buffered;
    if (ranges.length && video.currentTime - ranges.start(0) > REMOVE_AT_S) {
      buffer.remove(0, video.currentTime - KEEP_S);
    } else if (this.waiting.length) {
      const all = new Uint8Array(this.waiting.reduce((size, part) => size + part.length, 0));
      let at = 0;
      for (const part of this.waiting) { all.set(part, at); at += part.length; }
      this.waiting = [];
      try { buffer.appendBuffer(all); } catch (error) { if (error.name !== "QuotaExceededError") throw error; }
    }
  }

  follow() {
    const { video } = this;
    const ranges = this.buffer.buffered;
    if (!ranges.length) return;
    const end = ranges.end(ranges.length - 1), start = ranges.start(ranges.length - 1);
    if (this.reviewing) {
      if (video.currentTime < ranges.start(0)) video.currentTime = ranges.start(0);
      return;
    }
    const lag = end - video.currentTime;
    if (video.currentTime < start || lag > MAX_LAG_S) video.currentTime = Math.max(start, end - 0.07);
    video.playbackRate = lag > CALM_LAG_S ? 1.1 : 1;
    if (video.paused) video.play().catch(() => {});
  }

  review(seconds) {
    const ranges = this.video.buffered;
    if (!ranges.length) return;
    this.reviewing = true;
    this.video.playbackRate = 1;
    this.video.currentTime = Math.max(ranges.start(0), this.video.currentTime + seconds);
  }

  live() {
    this.reviewing = false;
    this.work();
  }

  get lagS() {
    const ranges = this.video.buffered;
    return ranges.length ? ranges.end(ranges.length - 1) - this.video.currentTime : 0;
  }

  get bufferedS() {
    const ranges = this.video.buffered;
    return ranges.length ? ranges.end(ranges.length - 1) - ranges.start(0) : 0;
  }
}
