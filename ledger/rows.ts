// The rows of a batch as one parameter: a JSON array of arrays, taken apart by position. json_to_recordset, which reads and looks
// up a name for each value, costs the database twice as much (27 µs per row of 36 columns, against 14 here), and one array per
// column costs 200 µs before its first row. What is sent seldom goes by name.

/** Columns and their types, in the order in which their values travel. */
export type Columns = Readonly<
  Record<
    string,
    'uuid' | 'text' | 'text[]' | 'bytea' | 'smallint' | 'int' | 'bigint' | 'boolean' | 'timestamptz' | 'jsonb'
  >
>;

/** A row's values by column; a missing value is null, and so is JSON's null. */
export type RowOf<C extends Columns> = Readonly<Partial<Record<keyof C, unknown>>>;

/** Selects the rows that `toParameter` wrote, in order. `offset 0`: each value is read once, however often it is used. */
export const selectRows = (columns: Columns, parameter: `$${number}`): string =>
  `select ${Object.entries(columns)
    .map(
      ([name, type], n) =>
        `${type === 'jsonb' ? `nullif(e -> ${n}, 'null')` : `(e ->> ${n})::${type}`} as ${name}`,
    )
    .join(', ')} from jsonb_array_elements(${parameter}::jsonb) e offset 0`;

/** The rows in the form that `selectRows` reads. */
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

/** In PostgreSQL's array syntax: inside a quoted word, a backslash escapes what follows. */
const toArrayText = (words: readonly string[]): string =>
  `{${words.map((word) => `"${word.replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
