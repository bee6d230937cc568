import { z } from 'zod';
import { normalise } from '../suppression/subject.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import type { Subject } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';

const Given = z.strictObject({
  email: z.string().optional(),
  phone: z.string().optional(),
  push_token: z.string().optional(),
  person_id: z.string().optional(),
});
const ABOUT = {
  description:
    'Exactly one identifier of a person: an email address, a phone number (E.164, or as it is written in the configured region), a push token, or your own id for the person. Values are brought into a normal form, and appear in no answer, log or error.',
  minProperties: 1,
  maxProperties: 1,
};

/** Exactly one identifier, brought into its normal form; no message contains the value. */
export const createSubjectSchema = (defaultRegion: string | undefined, title = 'Subject') =>
  Given.meta({ title, ...ABOUT }).transform((given, context): Subject => {
    const kinds = SUBJECT_KINDS.filter((kind) => given[kind] !== undefined);
    const [kind] = kinds;
    if (kinds.length !== 1 || kind === undefined) {
      context.addIssue({ code: 'custom', message: `must have exactly one of ${SUBJECT_KINDS.join(', ')}` });
      return z.NEVER;
    }
    const normal = normalise(kind, given[kind]!, defaultRegion);
    if (normal.ok) return { kind, value: normal.value };
    context.addIssue({ code: 'custom', message: normal.detail, path: [kind] });
    return z.NEVER;
  });

/** Whom an answer is about: never the identifier itself. */
export const MaskedSubject = z
  .object({
    kind: z.enum(SUBJECT_KINDS),
    masked: z
      .string()
      .nullable()
      .describe('`a••@e••.com`; null once the address is erased, or if it was damaged.'),
  })
  .meta({ title: 'MaskedSubject' });

/** The same in one pass without a schema, for a thousand items per call; undefined if it is no subject. */
function readSubject(value: unknown, defaultRegion: string | undefined): Subject | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const [member, ...others] = Object.entries(value as Record<string, unknown>);
  if (member === undefined || others.length > 0) return undefined;
  const [kind, text] = member;
  if (typeof text !== 'string' || !(SUBJECT_KINDS as readonly string[]).includes(kind)) return undefined;
  const normal = normalise(kind as SubjectKind, text, defaultRegion);
  return normal.ok ? { kind: kind as SubjectKind, value: normal.value } : undefined;
}

/** Reads several identifiers of one person in the same way, from 1 to `max`. */
export function readSubjects(
  given: unknown,
  max: number,
  defaultRegion: string | undefined,
): Subject[] | undefined {
  if (!Array.isArray(given) || given.length < 1 || given.length > max) return undefined;
  const subjects: Subject[] = [];
  for (const one of given) {
    const subject = readSubject(one, defaultRegion);
    if (subject === undefined) return undefined;
    subjects.push(subject);
  }
  return subjects;
}
