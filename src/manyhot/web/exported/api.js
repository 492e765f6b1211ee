// What the served page asks a server for, from the data beside this script.

const { files, pictures } = globalThis.manyhotExport;

export const thumbnail = (row) => `pictures/${files[row]}`;
export const nameOf = (row) => pictures[row].id;
export function whenNamed() {} // all names are known
