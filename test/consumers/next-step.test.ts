import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { ApplyOutcome } from '../../connectors/contract/connector.ts';
import { failureCode, nextStep, retryDelayMs } from '../../consumers/next-step.ts';
import { AbideError } from '../../suppression/errors.ts';

const attempt = fc.integer({ min: 1, max: 2 ** 31 });
const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

test('a retry waits at least 25 ms and never longer than is allowed', () => {
  fc.assert(
    fc.property(attempt, random, fc.integer({ min: 50, max: 3_600_000 }), (n, chance, maxMs) => {
      const ms = retryDelayMs(n, chance, maxMs);
      expect(ms).toBeGreaterThanOrEqual(25);
      expect(ms).toBeLessThanOrEqual(maxMs);
    }),
  );
});

test('without jitter each retry waits no less than the one before, and the jitter takes at most half', () => {
  fc.assert(
    fc.property(attempt, random, (n, chance) => {
      const longest = retryDelayMs(n, 1);
      expect(retryDelayMs(n + 1, 1)).toBeGreaterThanOrEqual(longest);
      expect(retryDelayMs(n, chance)).toBeGreaterThanOrEqual(longest / 2);
      expect(retryDelayMs(n, chance)).toBeLessThanOrEqual(longest);
    }),
  );
});

const YES = [{ kind: 'applied' }, { kind: 'already_newer' }, { kind: 'accepted' }] as const;

test.each(YES)(
  'a yes ($kind) is read back where the store can be read, and else taken for what it is',
  (yes) => {
    expect(nextStep(yes, 'read_back')).toEqual({ kind: 'read_back' });
    expect(nextStep(yes, 'applied')).toEqual({ kind: 'acknowledge' });
    expect(nextStep(yes, 'relay')).toEqual({ kind: 'leave' });
  },
);

test('whatever a connector gives as its reason, what is passed on has the form of a code and no text of the store', () => {
  fc.assert(
    fc.property(fc.string(), fc.constantFrom('read_back', 'applied', 'relay'), (code, evidence) => {
      const step = nextStep({ kind: 'refused', code }, evidence);
      expect(step).toMatchObject({ kind: 'park', outcome: 'refused' });
      expect((step as { code: string }).code).toMatch(/^[A-Z][A-Z0-9_]{0,63}$/);
    }),
  );
  const without = { kind: 'refused' } as ApplyOutcome;
  expect(nextStep(without, 'read_back')).toEqual({ kind: 'park', outcome: 'refused', code: 'REFUSED' });
  const said = { kind: 'refused', code: 'LIST_IS_FULL' } as const;
  expect(nextStep(said, 'read_back')).toMatchObject({ code: 'LIST_IS_FULL' });
  expect(nextStep({ kind: 'absent' }, 'read_back')).toEqual({
    kind: 'park',
    outcome: 'absent',
    code: 'ABSENT',
  });
});

const coded = (code: string, cause?: unknown): Error =>
  Object.assign(new Error(`of ada@example.com: ${code}`, { cause }), { code });

test.each([
  ['the deadline', AbortSignal.abort(new DOMException('late', 'TimeoutError')).reason, 'STORE_TIMEOUT'],
  ['an abort', new DOMException('gone', 'AbortError'), 'STORE_TIMEOUT'],
  ['a refused connection', coded('ECONNREFUSED'), 'STORE_UNREACHABLE'],
  ['a name that is not found', coded('ENOTFOUND'), 'STORE_UNREACHABLE'],
  ['a server that shuts down', coded('57P01'), 'STORE_UNREACHABLE'],
  [
    'a cause further down',
    new TypeError('fetch failed', { cause: coded('ECONNRESET') }),
    'STORE_UNREACHABLE',
  ],
  ['a client of HTTP', coded('UND_ERR_CONNECT_TIMEOUT'), 'STORE_UNREACHABLE'],
  ['a store that does not like what it got', coded('23514'), 'STORE_FAILED'],
  [
    'a connector that knows',
    new AbideError('STORE_TIMEOUT', 'x', { cause: coded('ECONNRESET') }),
    'STORE_TIMEOUT',
  ],
  ['the ledger', new AbideError('ledger-unavailable'), 'LEDGER_UNAVAILABLE'],
  // From an API process that was not restarted with the ring after a rotation.
  ['a ring that lacks a key', new AbideError('KEYS_MISSING'), 'KEYS_MISSING'],
  ['a thrown text', 'ada@example.com', 'STORE_FAILED'],
  ['nothing', undefined, 'STORE_FAILED'],
])('a call that fails by %s reads so in the lag', (_what, error, code) => {
  expect(failureCode(error)).toBe(code);
});
