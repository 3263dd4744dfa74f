// The picture: fragments of H.264 into a <video>, as near to the newest frame as the browser can.

const MAX_LAG_S = 0.35, CALM_LAG_S = 0.12, KEEP_S = 20, REMOVE_AT_S = 26;

export class Player {
  constructor(video, onFrame) {
    this.video = video;
    this.onFrame = onFrame;
    this.reviewing = false;
    const next = (now, meta) => { this.onFrame(now, meta); video.requestVideoFrameCallback(next); };
    video.requestVideoFrameCallback(next);
  }

  open(codec) {
    const Source = window.ManagedMediaSource || window.MediaSource;
    if (!Source) throw new Error("This browser cannot play a live picture (no MediaSource).");
    this.waiting = [];
    this.buffer = null;
    this.reviewing = false;
    const source = new Source();
    source.addEventListener("sourceopen", () => {
      URL.revokeObjectURL(this.video.src);
      this.buffer = source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
      this.buffer.addEventListener("updateend", () => this.work());
      this.work();
    }, { once: true });
    this.video.src = URL.createObjectURL(source);
  }

  push(data) {
    this.waiting.push(new Uint8Array(data));
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
