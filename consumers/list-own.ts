// Goes through what a store lists of itself, a page at a time, for people whom it suppresses and the ledger does not know. It
// records nothing: only the ledger knows who is a stranger.
import { setTimeout as delay } from 'node:timers/promises';
import type { Store, SubjectKey } from '../connectors/contract/connector.ts';
import type { Listed } from '../suppression/own-suppression.ts';
import type { LedgerAccess } from './ledger-access.ts';

/** How often the ledger is asked whether to go on with the list. */
const ASK_MS = 2_000;
/** Of what the store lists at once, at most this many entries and this many characters go into one report. */
const PAGE = 500;
const CHARACTERS_MAX = 64 * 1024;
/** No person's key is longer, and the ledger takes none that is, nor one with half a character. */
const KEY_MAX = 4_096;

type Entry = Awaited<ReturnType<NonNullable<Store['scan']>>>[number];

/**
 * Runs until `signal` aborts. `scan` lists what the store holds after a key, in key order; an empty page: there is nothing more. A
 * failure is logged once and tried again at the same place.
 */
export async function listOwnAlways({
  ledger,
  scan,
  onFailure,
  signal,
}: {
  ledger: Pick<LedgerAccess, 'listingPage' | 'listed'>;
  scan: (after: SubjectKey | undefined) => Promise<readonly Entry[]>;
  onFailure: (error: unknown) => void;
  signal: AbortSignal;
}): Promise<void> {
  /** What the store gave beyond the last report, so that it is asked for that only once. */
  let kept: { readonly after: SubjectKey | undefined; readonly entries: readonly Entry[] } | undefined;

  while (!signal.aborted) {
    let restMs = ASK_MS;
    try {
      const page = await ledger.listingPage(signal);
      if (page === undefined) kept = undefined;
      else {
        const entries =
          kept !== undefined && isSameKey(kept.after, page.after)
            ? kept.entries
            : await nextEntries(page.after);
        const taken = entries.slice(0, countOf(entries));
        const last = taken.at(-1);
        const through = last && { kind: last.kind, key: last.key };
        await ledger.listed(page, toListed(taken, through, page.scopes), signal);
        kept =
          entries.length > taken.length
            ? { after: through, entries: entries.slice(taken.length) }
            : undefined;
        restMs = page.pauseMs;
      }
    } catch (error) {
      kept = undefined;
      if (!signal.aborted) onFailure(error);
    }
    await delay(restMs, undefined, { signal }).catch(() => undefined);
  }

  /** A page; empty only if there is nothing more. Keys that are no person's are passed over: not even the place can be named by one. */
  async function nextEntries(after: SubjectKey | undefined): Promise<readonly Entry[]> {
    for (;;) {
      const entries = await scan(after);
      const listable = entries.filter(({ key }) => key.length <= KEY_MAX && key.isWellFormed());
      if (listable.length > 0 || entries.length === 0 || signal.aborted) return listable;
      after = entries.at(-1);
    }
  }
}

/** Whether two keys name the same person in a store; undefined names nobody. */
export const isSameKey = (a: SubjectKey | undefined, b: SubjectKey | undefined): boolean =>
  a?.kind === b?.kind && a?.key === b?.key;

/** How many of the entries one report takes, at least one. */
function countOf(entries: readonly Entry[]): number {
  let characters = 0;
  let count = 0;
  for (const { key, held } of entries.slice(0, PAGE)) {
    characters += key.length + held.suppressed.join().length;
    if (count > 0 && characters > CHARACTERS_MAX) break;
    count += 1;
  }
  return count;
}

const toListed = (
  entries: readonly Entry[],
  through: SubjectKey | undefined,
  scopes: readonly string[],
): Listed => ({
  through,
  isLast: entries.length === 0,
  listed: entries.length,
  suppressed: entries.flatMap(({ kind, key, held }) => {
    const suppressed = held.suppressed.filter((scope) => scopes.includes(scope));
    return suppressed.length === 0 ? [] : [{ kind, key, scopes: suppressed }];
  }),
});
