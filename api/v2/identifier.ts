// Whom a request is about: one identifier of a person, or several.
import { z } from 'zod';
import type { SubjectState } from '../../suppression/decision.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import type { Subject } from '../../suppression/subject.ts';
import { Instant } from '../operation.ts';
import { createSubjectSchema } from '../subject.ts';

export const IDENTIFIERS_MAX = 20;

export const createIdentifierSchema = (defaultRegion: string | undefined) =>
  createSubjectSchema(defaultRegion, 'Identifier');

/** Several identifiers of one person; one that comes twice, in whatever spelling, counts once. */
export const createIdentifiersSchema = (defaultRegion: string | undefined) =>
  z
    .array(createIdentifierSchema(defaultRegion))
    .min(1, 'must have at least one')
    .max(IDENTIFIERS_MAX, `must have at most ${IDENTIFIERS_MAX}`)
    .transform((subjects): Subject[] => [
      ...new Map(subjects.map((one) => [`${one.kind}\0${one.value.reveal()}`, one])).values(),
    ]);

const MASKED = {
  kind: z.enum(SUBJECT_KINDS),
  masked: z
    .string()
    .nullable()
    .describe('`a••@e••.com`; null once the address is erased, or if it was damaged.'),
};

/** Whom an answer is about: never the identifier itself. */
export const MaskedIdentifier = z.object(MASKED).meta({ title: 'MaskedIdentifier' });

export const SuppressedScope = z
  .object({
    scope: z.string(),
    since: Instant,
    opt_out_id: z.uuid().describe('The opt-out that began it.'),
  })
  .meta({ title: 'SuppressedScope' });

/** An identifier with what is suppressed for it: the whole, not what changed. */
export const IdentifierState = z
  .object({ ...MASKED, suppressed: z.array(SuppressedScope).describe('Ordered by scope.') })
  .meta({ title: 'IdentifierState' });

export const suppressedOf = ({ suppressed }: SubjectState): z.input<typeof SuppressedScope>[] =>
  Object.entries(suppressed)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([scope, held]) => ({ scope, since: held.first_effective_at, opt_out_id: held.opt_out_id }));
