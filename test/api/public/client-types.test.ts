import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { clientTypes } from '../../../api/public/client-types.ts';
import { toOpenApi } from '../../../api/public/openapi.ts';
import { servedVersions } from '../../../api/version.ts';
import { VERSIONS } from '../../../api/versions.ts';

test.each(servedVersions(VERSIONS))(
  "the client's types of %s are what the schemas say now (npm run openapi writes them)",
  async (name) => {
    const types = await clientTypes(toOpenApi(name, VERSIONS));
    expect(readFileSync(`client/openapi-${name}.ts`, 'utf8')).toBe(types);
  },
);
