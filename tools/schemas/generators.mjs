// Write the JSON schemas that zod and ts-json-schema-generator make of the types below:
//   npm install zod ts-json-schema-generator && node generators.mjs > tests/inputs/generated_schemas.json
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
const require = createRequire(process.cwd() + "/");
const { z } = await import(require.resolve("zod"));

const Level = z.enum(["low", "high"]);
const User = z.object({ id: z.uuid(), name: z.string().min(1).max(80), level: Level, tags: z.array(z.string()).max(5) });
const Node = z.object({ value: z.number(), get next() { return Node.nullable(); } });
const kinds = {
  string: z.string(), short: z.string().max(10), code: z.string().regex(/^\d{4}$/), word: z.string().regex(/\w+/),
  email: z.email(), url: z.url(), uuid: z.uuid(), cuid: z.cuid(), ulid: z.ulid(), nanoid: z.nanoid(), ipv4: z.ipv4(),
  ipv6: z.ipv6(), cidr: z.cidrv4(), base64: z.base64(), e164: z.e164(), jwt: z.jwt(), date: z.iso.date(),
  time: z.iso.time(), datetime: z.iso.datetime(), duration: z.iso.duration(), starts: z.string().startsWith("a"),
  ends: z.string().endsWith("z"), includes: z.string().includes("m"), upper: z.string().toUpperCase(), emoji: z.emoji(),
  number: z.number(), int: z.int(), positive: z.number().positive(), share: z.number().min(0).max(1),
  rating: z.int().min(1).max(5), step: z.number().multipleOf(0.5), latitude: z.number().gte(-90).lte(90),
  boolean: z.boolean(), none: z.null(), any: z.any(), unknown: z.unknown(), literal: z.literal("a"),
  literals: z.literal(["a", 1, null]), enum: Level, array: z.array(z.number()), some: z.array(z.string()).min(1).max(3),
  tuple: z.tuple([z.string(), z.number()]), rest: z.tuple([z.string()], z.number()), record: z.record(z.string(), z.int()),
  byLevel: z.record(Level, z.int()), partial: z.partialRecord(Level, z.int()), object: User, strict: z.strictObject({ a: z.int() }),
  loose: z.looseObject({ a: z.int() }), rest2: z.object({ a: z.int() }).catchall(z.string()), optional: z.object({ a: z.int().optional() }),
  fallback: z.object({ a: z.int().default(3) }), union: z.union([z.string(), z.int()]), nullable: z.string().nullable(),
  kinds: z.discriminatedUnion("kind", [z.object({ kind: z.literal("a"), a: z.int() }), z.object({ kind: z.literal("b"), b: z.string() })]),
  both: z.intersection(z.object({ a: z.int() }), z.object({ b: z.string() })), tree: Node, described: z.string().describe("d").meta({ title: "t", examples: ["x"] }),
};
const around = {
  itself: (one) => one, list: (one) => z.array(one), field: (one) => z.object({ value: one }), maybe: (one) => z.object({ value: one.nullable().optional() }),
};
const schemas = {};
for (const target of ["draft-2020-12", "draft-7", "openapi-3.0"])
  for (const [name, kind] of Object.entries(kinds))
    for (const [place, wrap] of Object.entries(around))
      if (target === "draft-2020-12" || place === "field")
        schemas[`zod ${target} ${name} ${place}`] = z.toJSONSchema(wrap(kind), { target });

const source = `
export interface Point { x: number; /** @minimum 0 @maximum 1 */ y: number; label?: string }
export interface Tree<T> { value: T; children: Tree<T>[] }
export type Color = "red" | "blue" | 3;
export enum Level { Low, High = "high" }
export interface Base { id: string; /** @format date-time */ at: string }
export interface Child extends Base { child: true; next: Child | null }
export type Shape = { kind: "circle"; radius: number } | { kind: "square"; side: number; corners: [Point, Point] };
export type Some = Partial<Point>; export type Picked = Pick<Child, "id" | "at">; export type Rest = [string, ...number[]];
export type Maybe = [string, number?]; export type Table = Record<string, Point>; export type ByColor = Record<"red" | "blue", number>;
export type Both = Base & Point; export type Numbers = Tree<number>; export type Open = { a: string; [key: string]: unknown };
export type Text = \`a-\${number}\`; export type Either = string | number | null; export type Deep = { a: { b: { c: Shape[] } } };
export interface Order { /** @pattern ^[A-Z]{2}\\d+$ */ code: string; /** @minItems 1 @uniqueItems true */ items: string[]; /** @multipleOf 0.01 */ price: number; /** @deprecated */ old?: any; level: Level; when: Date; not: never[] }
`;
writeFileSync("types.ts", source);
const { createGenerator } = await import(require.resolve("ts-json-schema-generator"));
for (const more of [{}, { topRef: false }, { additionalProperties: true }, { expose: "all" }]) {
  const generator = createGenerator({ path: "types.ts", skipTypeCheck: true, ...more });
  for (const [, name] of source.matchAll(/export (?:type|interface|enum) (\w+)/g)) {
    const generic = name === "Tree";
    if (!generic) schemas[`typescript ${name} ${JSON.stringify(more)}`] = generator.createSchema(name);
  }
}
process.stdout.write(`{\n${Object.entries(schemas).map(([name, one]) => `${JSON.stringify(name)}: ${JSON.stringify(one)}`).join(",\n")}\n}\n`);
