// The rows of a batch as one parameter: an array of arrays in JSON, taken apart by place. json_to_recordset, which reads and looks
// up a name for each value, costs the database twice as much (27 µs a row of 36 columns, and this 14), and one array a column
// costs 200 µs before its first row. What is sent seldom goes by name.

/** Columns and their types, in the order in which their values travel. */
export type Columns = Readonly<
  Record<
    string,
    'uuid' | 'text' | 'text[]' | 'bytea' | 'smallint' | 'int' | 'bigint' | 'boolean' | 'timestamptz' | 'jsonb'
  >
>;

/** Of each column, what a row has there; nothing is null, and so is JSON's null. */
export type RowOf<C extends Columns> = Readonly<Partial<Record<keyof C, unknown>>>;

/** A select of what `toParameter` made: its rows, in their order. `offset 0`: each value is read once, however often it is used. */
export const selectRows = (columns: Columns, parameter: `$${number}`): string =>
  `select ${Object.entries(columns)
    .map(
      ([name, type], n) =>
        `${type === 'jsonb' ? `nullif(e -> ${n}, 'null')` : `(e ->> ${n})::${type}`} as ${name}`,
    )
    .join(', ')} from jsonb_array_elements(${parameter}::jsonb) e offset 0`;

/** The rows as what `selectRows` reads. */
export function toParameter<C extends Columns>(columns: C, rows: readonly RowOf<C>[]): string {
  const names = Object.keys(columns);
  return JSON.stringify(
    rows.map((row) =>
      names.map((name) => {
        const value = row[name];
        return columns[name] === 'text[]' && Array.isArray(value) ? toArrayText(value as string[]) : value;
      }),
    ),
  );
}

/** As PostgreSQL reads an array: in a quoted word a backslash keeps what follows it. */
const toArrayText = (words: readonly string[]): string =>
  `{${words.map((word) => `"${word.replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
