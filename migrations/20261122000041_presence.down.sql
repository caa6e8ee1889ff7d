drop table presence_members; drop table presence_instances;
