-- Which instances' members the unlogged table of members has. A crash of the server empties both, while the leases
-- outlive it: whoever is not here any more enters its members again.
create unlogged table presence_kept (
    instance text primary key
);
