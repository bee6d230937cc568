// What the checks of every version share.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { CheckItem } from '../ledger/contract/checks.ts';
import { isAtMost } from './bounded-text.ts';

export const CHECKS_MAX = 1_000;
/** A thousand items with several identifiers each. */
export const CHECKS_BYTES_MAX = 1024 * 1024;
export const REF_CHARACTERS_MAX = 255;
/** An item takes microseconds, but a millisecond if it has twenty phone numbers full of zeroes. */
const SLICE = 20;

/** Reads items one after the other; other requests get their turn in between. */
export async function readItems(
  items: readonly unknown[],
  readItem: (item: unknown) => CheckItem | undefined,
): Promise<(CheckItem | undefined)[]> {
  const read: (CheckItem | undefined)[] = [];
  for (const [n, item] of items.entries()) {
    if (n % SLICE === SLICE - 1) await nextTurn();
    read.push(readItem(item));
  }
  return read;
}

export const isRef = (value: unknown): value is string | undefined =>
  value === undefined || (typeof value === 'string' && isAtMost(value, REF_CHARACTERS_MAX));

/** The caller's name for an item, even if nothing else of it can be read. */
export const refOf = (value: unknown): { ref?: string } => {
  const ref = typeof value === 'object' && value !== null ? (value as { ref?: unknown }).ref : undefined;
  return typeof ref === 'string' && isRef(ref) ? { ref } : {};
};

/** What a call of checks spends: each identifier tells of somebody, however identifiers are put into items. */
export const identifiersIn = (items: readonly CheckItem[]): number =>
  items.reduce((sum, { subjects }) => sum + subjects.length, 0);
