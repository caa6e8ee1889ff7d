-- An example shop. Nothing in it knows of the platform: the mappings say what becomes an event.

create table if not exists customers (
    id bigint generated always as identity primary key,
    name text not null,
    city text not null
);

create table if not exists orders (
    id bigint generated always as identity primary key,
    customer_id bigint not null references customers (id),
    customer_name text not null, -- as it was when the order was placed
    status text not null default 'placed'
        check (status in ('placed', 'paid', 'packed', 'shipped', 'delivered', 'cancelled')),
    total numeric(10, 2) not null check (total >= 0),
    placed_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists order_items (
    order_id bigint not null references orders (id) on delete cascade,
    product text not null,
    quantity integer not null check (quantity > 0),
    price numeric(10, 2) not null check (price >= 0),
    primary key (order_id, product)
);

insert into customers (name, city)
select name, city
from (values
    ('Ada Moreno', 'Lisbon'),
    ('Bela Kiss', 'Budapest'),
    ('Chidi Obi', 'Lagos'),
    ('Dana Novak', 'Brno'),
    ('Emi Sato', 'Osaka')
) as first (name, city)
where not exists (select from customers);

insert into orders (customer_id, customer_name, total)
select id, name, 20 + id * 7.5
from customers
where not exists (select from orders)
order by id
limit 3;

insert into order_items (order_id, product, quantity, price)
select id, 'Notebook', 1, total
from orders
where not exists (select from order_items);
