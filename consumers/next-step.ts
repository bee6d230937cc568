// What follows a store's answer, or its failure. Pure: the branches sit together, chance comes in as an argument.
import type { ApplyOutcome } from '../connectors/contract/connector.ts';
import { AbideError, CODE } from '../suppression/errors.ts';

/** The first retry comes soon, later ones ever more slowly, but never more than this apart while the store answers at all. */
const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 30_000;

/** Between half and all of an exponential pause, so that many workers do not come back at once. `random` in [0, 1). */
export const retryDelayMs = (attempt: number, random: number, maxMs = RETRY_MS_MAX): number =>
  Math.min(maxMs, RETRY_MS_MIN * 2 ** Math.min(attempt - 1, 20)) * (0.5 + random / 2);

/** What the worker does next with one item. */
export type NextStep =
  | { readonly kind: 'read_back' }
  /** The store was told and cannot be read: its word is all there is. */
  | { readonly kind: 'acknowledge' }
  /** A queue took it over: the consumer of the queue acknowledges. */
  | { readonly kind: 'leave' }
  | { readonly kind: 'park'; readonly outcome: 'refused' | 'absent'; readonly code: string };

export function nextStep(outcome: ApplyOutcome, evidence: 'read_back' | 'applied' | 'relay'): NextStep {
  switch (outcome.kind) {
    case 'applied':
    case 'already_newer':
    case 'accepted':
      return evidence === 'read_back'
        ? { kind: 'read_back' }
        : { kind: evidence === 'applied' ? 'acknowledge' : 'leave' };
    case 'absent':
      return { kind: 'park', outcome: 'absent', code: 'ABSENT' };
    case 'refused':
      // A code of another form may say anything, even an address.
      return { kind: 'park', outcome: 'refused', code: CODE.test(outcome.code) ? outcome.code : 'REFUSED' };
  }
}

/** What a connector says in Abide's words, which contain no value; undefined: the words of the error are somebody else's. */
export const ownWords = (error: unknown): string | undefined =>
  error instanceof AbideError ? error.message : undefined;

const FAILURES = ['STORE_TIMEOUT', 'STORE_UNREACHABLE', 'STORE_FAILED'] as const;

/** How a failure of the ledger reads in the lag; waiting does not help with a key that its ring lacks. */
export const ledgerFailureCode = (error: unknown): 'KEYS_MISSING' | 'LEDGER_UNAVAILABLE' =>
  error instanceof AbideError && error.code === 'KEYS_MISSING' ? error.code : 'LEDGER_UNAVAILABLE';

/** How a failed call reads in the lag, without any text of the store's; a connector that names the failure is believed. */
export function failureCode(
  error: unknown,
): (typeof FAILURES)[number] | ReturnType<typeof ledgerFailureCode> {
  for (let one = error; one instanceof Error; one = one.cause) {
    if (one instanceof AbideError) {
      const { code } = one;
      // Any other code is the ledger's, which the worker asks for transport keys and the newest decision on the way.
      return FAILURES.find((failure) => failure === code) ?? ledgerFailureCode(one);
    }
    if (one.name === 'TimeoutError' || one.name === 'AbortError') return 'STORE_TIMEOUT';
    const code = 'code' in one ? String(one.code) : '';
    if (/^(ECONN|EPIPE|ENOTFOUND|EHOST|ENET|EAI_|ETIMEDOUT|UND_ERR_(SOCKET|CONNECT)|08|57P)/.test(code)) {
      return 'STORE_UNREACHABLE';
    }
  }
  return 'STORE_FAILED';
}
