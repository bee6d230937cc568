// How a person is found in `subjects`, whichever pepper was in use when their match key was made (replace-pepper.ts).
import type { Subject } from '../suppression/subject.ts';
import type { KeyRing } from './key-ring.ts';

/** What a subject is found by: its match key, and those that it may have had under a pepper that was replaced. */
export type SubjectKey = { readonly match: Buffer; readonly hex: string; readonly older: readonly Buffer[] };

export function subjectKey(ring: KeyRing, subject: Subject): SubjectKey {
  const [match, ...older] = ring.matchKeys(subject);
  return { match, hex: match.toString('hex'), older };
}

/** Every key to look for, each once. */
export const everyMatch = (keys: readonly SubjectKey[]): Buffer[] =>
  [...new Map(keys.map((key) => [key.hex, key])).values()].flatMap(({ match, older }) => [match, ...older]);

/** Gives the match key, in hexadecimal, of what was found under that one or an older one. */
export function byEveryMatch(keys: readonly SubjectKey[]): (found: string) => string {
  const current = new Map(
    keys.flatMap(({ hex, older }) => older.map((match) => [match.toString('hex'), hex] as const)),
  );
  return (found) => current.get(found) ?? found;
}
