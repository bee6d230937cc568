// The platform's own fetch, and what passed through it.

export type Passed = {
  readonly url: string;
  readonly method: string;
  readonly key: string | null;
  readonly prefer: string | null;
  readonly at: number;
};

/** `instead` may answer, or throw, in place of the n-th request (from 1). */
export function watchedFetch(instead: (n: number) => Response | Error | undefined = () => undefined): {
  readonly fetch: typeof fetch;
  readonly passed: readonly Passed[];
} {
  const passed: Passed[] = [];
  return {
    passed,
    fetch: async (input, init) => {
      const { url, method, headers } = new Request(input, init);
      const [key, prefer] = [headers.get('idempotency-key'), headers.get('prefer')];
      passed.push({ url, method, key, prefer, at: performance.now() });
      const own = instead(passed.length);
      if (own instanceof Error) throw own;
      return own ?? (await fetch(input, init));
    },
  };
}
