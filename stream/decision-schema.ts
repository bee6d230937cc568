// A decision in the topic, as this version reads it. Debezium writes it, after the columns of `decisions`; Avro matches the two by
// name. The rules by which this may change (a test holds them):
//
// - What is here without a default stays, with its type. A record that lacks one of these cannot be read, and is parked: no default
//   may stand in for what was decided.
// - A later field has a default, so that records written before it stay readable. A default for one that says what is suppressed or
//   granted would be an invention, so there is none and there will be none.
//
// Avro never uses the writer's own defaults here (Debezium invents one for each column type that it cannot ask).
const text = 'string';
const nullable = <T extends string>(type: T) => ['null', type] as const;

export const DECISION_SCHEMA = {
  type: 'record',
  name: 'Value',
  namespace: 'abide.public.decisions',
  fields: [
    { name: 'seq', type: 'long' },
    { name: 'opt_out_id', type: nullable('string') },
    { name: 'subject_id', type: text },
    { name: 'kind', type: text },
    { name: 'version', type: 'long' },
    { name: 'suppressed', type: text, doc: 'JSON: scope to the instant since when' },
    { name: 'granted', type: text, doc: 'JSON: scope to the instant and the version of the grant' },
    { name: 'effective_at', type: text },
    { name: 'recorded_at', type: text },
    { name: 'sealed', type: nullable('bytes') },
    { name: 'transport_key_id', type: nullable('long') },
    { name: 'traceparent', type: nullable('string'), default: null },
  ],
} as const;
