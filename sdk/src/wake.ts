/** Tells when the browser is back: online again, or the page visible again. Does nothing where there is no browser. */

/**
 * Calls `wake` whenever the browser comes online or the page becomes visible.
 *
 * @returns a function that stops listening.
 */
export function listenForWake(wake: () => void): () => void {
  const scope = globalThis as Partial<Pick<Window, 'addEventListener' | 'removeEventListener' | 'document'>>;
  const page = scope.document;
  const visible = (): void => {
    if (page?.visibilityState === 'visible') wake();
  };
  scope.addEventListener?.('online', wake);
  page?.addEventListener('visibilitychange', visible);
  return () => {
    scope.removeEventListener?.('online', wake);
    page?.removeEventListener('visibilitychange', visible);
  };
}
