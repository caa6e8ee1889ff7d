/** How long to wait before the next attempt. */

/** No wait between attempts is longer than this, unless its base is. */
const MAX_DELAY_MS = 30_000;

/**
 * Exponential backoff with jitter: between half and all of `base × 2^attempt`, capped.
 *
 * @param baseMs the first wait's upper bound.
 * @param attempt 0 for the first.
 */
export function backoffDelayMs(baseMs: number, attempt: number): number {
  const ceiling = Math.min(Math.max(MAX_DELAY_MS, baseMs), baseMs * 2 ** attempt);
  return ceiling / 2 + (Math.random() * ceiling) / 2;
}
