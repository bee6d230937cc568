import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';

/** How the command line says who is meant. */
export const SUBJECT_HELP = 'an address, a number with +, a person id, or kind:value';

/** Kind and value: `push_token:…` as it says, else an address by its @, a number by its +, else a person id. */
export function identify(text: string): readonly [SubjectKind, string] {
  const colon = text.indexOf(':');
  const kind = SUBJECT_KINDS.find((one) => one === text.slice(0, Math.max(0, colon)));
  if (kind !== undefined) return [kind, text.slice(colon + 1)];
  return [text.includes('@') ? 'email' : text.startsWith('+') ? 'phone' : 'person_id', text];
}
