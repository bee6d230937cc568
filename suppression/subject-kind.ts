/** A subject is one identifier of a person. */
export const SUBJECT_KINDS = ['email', 'phone', 'push_token', 'person_id'] as const;
export type SubjectKind = (typeof SUBJECT_KINDS)[number];
