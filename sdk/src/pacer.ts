/**
 * Spreads requests over time, so that a client with many subscriptions and channels stays below the server's limit of
 * messages a second when it reconnects.
 */

/** Below the server's default limits (burst 200, then 100 messages a second), leaving room for other requests. */
const BURST = 100;
const PER_SECOND = 60;

/** A burst that is let through at once, then a steady rate; the order is kept. */
export class Pacer {
  private readonly waiting: (() => boolean)[] = [];
  private tokens: number;
  private refilledAt = Date.now();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly burst = BURST,
    private readonly perSecond = PER_SECOND,
  ) {
    this.tokens = burst;
  }

  /** Runs the task at once or as soon as the rate allows. A task returns whether it sent anything. */
  run(task: () => boolean): void {
    this.waiting.push(task);
    this.drain();
  }

  /** Forgets the tasks that have not run. */
  clear(): void {
    this.waiting.length = 0;
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  private drain(): void {
    if (this.timer !== undefined) return;
    this.refill();
    while (this.tokens >= 1) {
      const task = this.waiting.shift();
      if (!task) return;
      if (task()) this.tokens -= 1;
    }
    if (this.waiting.length === 0) return;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.drain();
    }, 1000 / this.perSecond);
  }

  private refill(): void {
    const now = Date.now();
    const earned = ((now - this.refilledAt) / 1000) * this.perSecond;
    // A clock that was set back earns nothing, rather than taking away.
    this.tokens = Math.min(this.burst, this.tokens + Math.max(0, earned));
    this.refilledAt = now;
  }
}
