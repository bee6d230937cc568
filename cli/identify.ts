import { InvalidArgumentError } from 'commander';
import type { Channel } from '../suppression/scope.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';

/** How the command line names a subject. */
export const SUBJECT_HELP = 'an address with @, a number with +, or kind:value, such as person_id:4711';

/** A kind as people read it. */
export const KIND_WORDS: Readonly<Record<SubjectKind, string>> = {
  email: 'email address',
  phone: 'phone number',
  push_token: 'push token',
  person_id: 'person id',
};

/** What a kind reaches if no channel is named; a person id reaches any. */
export const USUAL_CHANNEL: Readonly<Record<SubjectKind, Channel>> = {
  email: 'email',
  phone: 'sms',
  push_token: 'push',
  person_id: 'email',
};

/**
 * Kind and value: `push_token:…` as it says, else an address by its @, a number by its +. Throws InvalidArgumentError for anything
 * else: a number without its + would be taken for an id of which nothing is known, and a check would answer "may be sent".
 */
export function identify(text: string): readonly [SubjectKind, string] {
  const typed = text.trim();
  const colon = typed.indexOf(':');
  const kind = SUBJECT_KINDS.find((one) => one === typed.slice(0, Math.max(0, colon)));
  if (kind !== undefined) return [kind, typed.slice(colon + 1)];
  if (typed.includes('@')) return ['email', typed];
  if (typed.startsWith('+')) return ['phone', typed];
  throw new InvalidArgumentError(
    `It cannot be told who is meant: give an address with @, a number with + and its country (+41791234567), or kind:value, ` +
      `such as person_id:4711. Kinds are ${SUBJECT_KINDS.join(', ')}.`,
  );
}
