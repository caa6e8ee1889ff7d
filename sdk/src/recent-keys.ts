/** Remembers the last so many keys. */

/** A set of bounded size that forgets its oldest key first. */
export class RecentKeys {
  private readonly keys = new Set<string>();

  /** @param capacity how many keys are remembered. */
  constructor(private readonly capacity: number) {}

  /** Remembers a key. @returns whether it is new. */
  add(key: string): boolean {
    if (this.keys.has(key)) return false;
    this.keys.add(key);
    if (this.keys.size > this.capacity) {
      const oldest = this.keys.values().next();
      if (oldest.done !== true) this.keys.delete(oldest.value);
    }
    return true;
  }

  clear(): void {
    this.keys.clear();
  }
}
